"""--mode=eval: test loss, bits per dimension and quality of samples; --mode=stats: statistics of the data."""

import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset
from eval_lib import Statistics
from io_lib import pictures, workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import read_metrics
from run_modes import bits, intervals, sample_metrics, text_bits
from run_modes.card import code_version
from run_modes.data import load_data, warn_of_other_data
from run_modes.eval_loss import EvalLoss, loss_curve
from run_modes.experiment import make_experiment
from run_modes.features import write_statistics
from run_modes.page import write_page
from run_modes.paths import require_config
from run_modes.trained import Trained, open_trained, require_score


def stats(config: ConfigDict, out: str | Path, dataset: Dataset | None = None) -> Statistics:
    """Writes moments, protocol and features of config.eval.reference_split into the npz file `out`; returns them.

    The file is a reference for evaluations (config.eval.reference). ConfigError for a config or data that cannot be
    used.
    """
    require_config(config)
    experiment = make_experiment(config)
    return write_statistics(experiment, load_data(config, experiment.devices, dataset), out)


def evaluate(
    directory: str | Path,
    num_samples: int = 1000,
    seed: int = 0,
    config: ConfigDict | None = None,
    dataset: Dataset | None = None,
    devices: list | None = None,
    folder: str = "eval",
    step: int | None = None,
) -> dict | None:
    """A report: loss on test data, bits per dimension (config.eval.bpd), and config.eval.metrics and report of samples.

    Evaluates the checkpoint of `step`, or the newest, or each from config.eval.first_step to last_step; returns the
    last report. `folder` gets report_STEP.json and .md, the last of them also as report.json and .md, and the pictures
    samples.png, neighbors.png, loss.png and loss_of_t.png. Samples are drawn, cached and resumed as by `sample`; None
    if a signal stopped that.
    """
    report, data = None, None
    for one in [step] if step is not None else steps_to_evaluate(directory, config):
        trained = open_trained(directory, config, devices, one)
        if data is None:
            data = load_data(trained.config, trained.experiment.devices, dataset)
            warn_of_other_data(directory, data)
        report = evaluate_one(trained, num_samples, seed, data, folder)
        if report is None:
            return None
    write_page(directory)
    return report


def steps_to_evaluate(directory: str | Path, config: ConfigDict | None) -> Sequence[int | None]:
    """The steps of the checkpoints that config.eval selects; None is the newest. ConfigError if there are none."""
    first, last = (config.eval.get(name, 0) if config else 0 for name in ("first_step", "last_step"))
    if not (first or last):
        return [None]
    with Checkpoints(Path(directory) / "checkpoints") as checkpoints:
        there = checkpoints.steps()
    steps = [step for step in there if first <= step and (not last or step <= last)]
    if not steps:
        raise ConfigError(f"no checkpoint from step {first} to {last or 'the newest'}: {directory} holds {there}")
    return steps


def evaluate_one(trained: Trained, num_samples: int, seed: int, dataset: Dataset, into: str) -> dict | None:
    """The report of one checkpoint."""
    experiment, folder, text = trained.experiment, trained.directory / into, ""
    evaluators = sample_metrics.build_evaluators(experiment, dataset, folder)
    with_bits, with_intervals = bits.wanted(trained.config), intervals.wanted(trained)
    if any(evaluators) or with_bits or with_intervals:
        require_score(trained, "samples or likelihoods, which config.eval names")
    folder.mkdir(parents=True, exist_ok=True)
    nfe = experiment.sampler.nfe if experiment.objective.learns_score else 0
    report = {"step": trained.step, "seed": seed, "nfe": nfe, "code": code_version()}
    report["eval_loss"] = EvalLoss(experiment, dataset)(trained.params, trained.step)
    if (curve := loss_curve(experiment, trained.params, trained.step, dataset)) is not None:
        report["loss_of_t"] = curve
        pictures.plot_loss_over_time(folder / "loss_of_t.png", **curve)
    for name, figure in experiment.objective.figures().items():
        one = experiment._replace(objective=figure)
        report[name] = EvalLoss(one, dataset)(trained.params, trained.step)
        text += f"\ntest {name} {report[name]:.4f}\n"
        if (curve := loss_curve(one, trained.params, trained.step, dataset)) is not None:
            report[f"{name}_of_t"] = curve
    if with_bits:
        report["bits"] = bits.bits_of(trained, dataset, seed, folder)
        if report["bits"] is None:
            return None
        text += "\n" + bits.text_of(report["bits"])
    if text_bits.wanted(trained.config):
        report["text_bits"] = text_bits.text_bits_of(trained, dataset, seed, folder)
        if report["text_bits"] is None:
            return None
        text += "\n" + text_bits.text_of(report["text_bits"])
    if with_intervals:
        report["intervals"] = intervals.intervals_of(trained, dataset, seed, folder)
        if report["intervals"] is None:
            return None
        text += "\n" + intervals.text_of(report["intervals"])
    if any(evaluators):
        found = sample_metrics.evaluate_samples(trained, dataset, evaluators, num_samples, seed, folder)
        if found is None:
            return None
        text += f"\n{sample_metrics.text_of(found)}\n{found.pop('text', '')}"
        if isinstance(law := found.get("classes"), str):  # a report may have figures of this name
            text += f"\n{law}\n"
        report |= found
    write_report(folder, report, text)
    pictures.plot_loss(folder / "loss.png", read_metrics(trained.directory))
    return report


def write_report(folder: Path, report: dict, text: str) -> None:
    """Writes report_STEP and report, .json and .md, and prints the latter."""
    cost = f", NFE {report['nfe']:.4g}" if report["nfe"] else ""
    head = f"Step {report['step']} (EMA), test loss {report['eval_loss']:.4f}{cost}, code {report['code']}"
    for name in (f"report_{report['step']}", "report"):
        workdir.write_atomic(folder / f"{name}.json", json.dumps(report, indent=1))
        workdir.write_atomic(folder / f"{name}.md", f"{head}\n{text}")
    print(f"{head}\n{text}")
