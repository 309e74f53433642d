"""--mode=reproduce: runs a config to its stated figures, and compares them with the measured ones.

    train to config.training.num_steps, or import a published checkpoint
    evaluate over config.eval.reproduce.seeds draws of config.eval.reproduce.num_samples
    compare each figure of config.eval.expected with the measured one: eval/reproduced.md and .json

Each of these resumes, so the same command resumes after a kill. If everything is cached, it only compares.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build
from data_lib import Dataset
from eval_lib import expected
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from run_modes.data import load_data
from run_modes.evaluate import evaluate
from run_modes.experiment import make_experiment
from run_modes.import_published import import_checkpoint, imported_from
from run_modes.page import write_page
from run_modes.paths import require_config
from run_modes.sample_metrics import build_evaluators
from run_modes.train import train


def reproduce(
    config: ConfigDict,
    directory: str | Path,
    checkpoint: str = "",
    dataset: Dataset | None = None,
    devices: list | None = None,
    folder: str = "eval",
) -> bool | None:
    """Whether every figure of config.eval.expected is as expected; prints the table. None if a signal stopped it.

    A published `checkpoint` replaces training. Seeds of samples start at 0. ConfigError, before anything is trained, if
    the config expects nothing, or if anything that its evaluation requires is missing.
    """
    require_config(config)
    wanted = build(config.eval.get("expected", {}), "config.eval.expected")
    if not wanted:
        raise ConfigError(
            "config.eval.expected is empty: set config.eval.expected.NAME = "
            "spec(Expected, figure=…, value=…, tolerance=…)"
        )
    experiment = make_experiment(config, devices)
    data = load_data(config, experiment.devices, dataset)
    build_evaluators(experiment, data, Path(directory) / folder)  # for its errors
    if not make(config, directory, checkpoint, data, devices):
        return None
    options = config.eval.reproduce
    adapted = config.copy_and_resolve_references()
    adapted.eval.update(seeds=options.seeds, first_step=0, last_step=0)
    report = evaluate(directory, options.num_samples, 0, adapted, data, devices, folder)
    if report is None:
        return None
    try:
        rows = expected.compare(wanted, report)
    except ValueError as error:
        raise ConfigError(f"config.eval.expected: {error}") from error
    passed = write(Path(directory) / folder, rows, report, options.seeds)
    write_page(directory)
    return passed


def make(config: ConfigDict, directory: str | Path, checkpoint: str, dataset: Dataset, devices: list | None) -> bool:
    """Trains or imports the work directory, unless that is done; False if a signal stopped the training.

    If it is done, the config may differ from that of the directory in sections that training does not use.
    """
    steps = [int(path.name) for path in (Path(directory) / "checkpoints").glob("[0-9]*") if path.name.isdigit()]
    if max(steps, default=-1) >= (0 if checkpoint else config.training.num_steps):
        if checkpoint:
            require_imported(directory, max(steps), checkpoint)
        return True
    if not checkpoint:
        return train(config, directory, dataset, devices)
    import_checkpoint(config, checkpoint, directory)
    return True


def require_imported(directory: str | Path, step: int, checkpoint: str) -> None:
    """ConfigError unless the checkpoint of that step is an import of this file."""
    with Checkpoints(Path(directory) / "checkpoints") as checkpoints:
        source = checkpoints.card(step).get("data", {}).get("source")
    if source != imported_from(checkpoint):
        raise ConfigError(f"{directory} has a checkpoint of {source}, not of {checkpoint}: choose another --workdir")


def write(folder: Path, rows: list[expected.Comparison], report: dict, seeds: int) -> bool:
    """Prints the table, and writes it as reproduced.md and .json into `folder`; whether all figures passed."""
    passed = all(row.passed for row in rows)
    head = f"Step {report['step']}, {seeds} × {report['samples']} samples, code {report['code']}"
    table = expected.markdown(rows, seeds, report.get("metrics", {}).get("protocol"))
    text = f"{head}: {'reproduced' if passed else 'NOT reproduced'}\n\n{table}"
    found = {r.name: {"expected": str(r.expected), "mean": r.mean, "sd": r.sd, "passed": r.passed} for r in rows}
    workdir.write_atomic(folder / "reproduced.md", text)
    about = {"step": report["step"], "code": report["code"], "passed": passed}
    workdir.write_atomic(folder / "reproduced.json", json.dumps({**about, "figures": found}, indent=1))
    print(text)
    return passed
