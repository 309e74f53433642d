"""Training, sampling and evaluation, told in order: build the objects from the config, loop, keep what matters.

A work directory holds one run:

    config.json   checkpoints/   metrics.jsonl   tensorboard/   samples/   eval/

It is all that sampling from it needs. `train` resumes by itself from the newest checkpoint, exactly: a batch and its
noise are functions of (seed, step). So does `sample`: a sample is a function of (seed, its number).
"""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

import run_evaluation
import run_features
import run_likelihood
import run_sampling
from configs.spec import ConfigError, build, to_json
from data_lib import Batches, Dataset, gather, prefetch
from eval_lib import Statistics
from io_lib import pictures, workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog, NoLog, read_metrics
from io_lib.processes import is_first, together
from io_lib.signals import StopRequest
from run_card import card_of, data_of
from run_classes import for_network
from run_parts import (
    build_parts,
    check_data,
    load_data,
    log_shared,
    make_layout,
    placed,
    restored,
)
from run_sampling import Trained, open_trained, require_animation, samples_of
from run_training import Run, check_shapes
from sde_lib import ScoreModel, check_sde
from sde_lib import suggest as suggest_parameters
from sde_lib.check import Report
from sde_lib.suggest import Suggestion

# Before training


def check(config: ConfigDict) -> Report:
    """Prints whether the config's SDE agrees with itself, for events of the config's shape and data of unit variance.

    SDECheckError, naming the method to look at, where it does not.
    """
    return check_sde(build(config.sde, "config.sde"), shape=tuple(config.shape))


def suggest(config: ConfigDict, dataset: Dataset | None = None, count: int = 10_000) -> Suggestion:
    """What the first `count` training examples, in model space, suggest for the parameters of a process."""
    dataset = load_data(config, make_layout()) if dataset is None else dataset
    x = gather(dataset.train, np.arange(min(count, len(dataset.train))))["x"]
    sde = build(config.sde, "config.sde")
    return suggest_parameters(
        build(config.transform, "config.transform").forward(x), sde=sde if hasattr(sde, "alpha") else None
    )


# Training


def train(
    config: ConfigDict, directory: str | Path, dataset: Dataset | None = None, devices: list | None = None
) -> bool:
    """Trains to config.training.num_steps, resuming from the newest checkpoint; True when it got there.

    `dataset` takes the place of config.data, for arrays that are already in memory. SIGTERM or Ctrl-C writes a
    checkpoint and returns False. FloatingPointError at a loss that is not finite: the last good checkpoint stays;
    WriteError where one cannot be written.
    ConfigError, before anything is compiled, for all that is wrong with config, data, devices or directory, and where
    another run trains in it.

    After `jax.distributed.initialize`, all its processes call this alike: the batch is split over the devices of all,
    each reads its part of it and writes its share of a checkpoint, the first writes all else, into a directory that all
    can see. What is refused in one is in all. They stop together, at the next line of the log after one is told to.
    """
    with contextlib.ExitStack() as stack:
        given = dataset is not None
        with together():
            parts, layout, dataset, batches, checkpoints = prepared(config, directory, dataset, devices)
            if is_first():
                stack.enter_context(workdir.alone(workdir.claim(directory, to_json(config)), "training"))
        with together():  # of the first too: two runs may have found it empty
            directory = workdir.claimed(directory, to_json(config))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(checkpoints)
        log = stack.enter_context(MetricsLog(directory) if is_first() else NoLog())
        start, total = checkpoints.latest_step() or 0, config.training.num_steps
        if start >= total:
            log.rewind(start)
            say(f"{directory} is trained: {start} steps")
            return True
        state = restored(config, parts, layout, checkpoints) if start else placed(config, parts, layout)
        start = int(state.step)  # an older one than the newest, if that was damaged
        log.rewind(start)
        if start:
            say(f"{directory}: training goes on from step {start}")
        card = card_of(config, data_of(config, dataset, given))
        run = Run(config, parts, layout, dataset, directory, log, checkpoints, card)
        feed = prefetch(batches, start, total, lambda batch: layout.put(for_network(config, batch)), ahead=2)
        step = run.loop(state, start, stack.enter_context(contextlib.closing(feed)), stop)
    if step < total:
        say(f"stopped at step {step}: the same command resumes {directory} there")
    return step == total


def prepared(config: ConfigDict, directory: str | Path, dataset: Dataset | None, devices: list | None) -> tuple:
    """(parts, layout, data, batches, checkpoints) to train with. ConfigError for all that can be told before."""
    parts, layout, training = build_parts(config), make_layout(devices, processes=True), config.training
    dataset = load_data(config, layout) if dataset is None else check_data(config, log_shared(dataset), layout)
    check_shapes(config, parts, layout)
    try:
        place = jax.process_index(), jax.process_count()
        batches = Batches(dataset.train, parts.transform, training.batch_size, config.seed, training.flip, *place)
        checkpoints = Checkpoints(Path(directory) / "checkpoints", training.keep_newest, training.keep_every or None)
    except ValueError as error:
        raise ConfigError(f"config.training: {error}") from error
    return parts, layout, dataset, batches, checkpoints


def say(text: str) -> None:
    """Once, however many processes there are."""
    if is_first():
        print(text)


# Sampling


def load(directory: str | Path, config: ConfigDict | None = None) -> ScoreModel:
    """The model of a work directory, with the EMA parameters of its newest checkpoint.

    `config`, where given, stands in for the directory's own; it may differ in sampling, eval and data alone.
    ConfigError if it differs otherwise, if there is no checkpoint, or if it is no work directory.
    """
    return open_trained(directory, config).model


def sample(
    directory: str | Path,
    num_samples: int = 1000,
    seed: int = 0,
    config: ConfigDict | None = None,
    animate: bool = False,
    devices: list | None = None,
) -> np.ndarray | None:
    """Draws samples into samples/samples.npz (key `samples`) and, for images, a grid into samples/samples.png.

    Images are uint8 [N, H, W, C], other data float32 [N, *shape] in the units of the data; the array that comes back is
    a read-only map of the file. Sample i is a function of (seed, i): neither config.sampling.batch_size nor the
    devices change it (except under Langevin's batch norm). Batches are kept under samples/shards/ as they are drawn, so
    the same call, killed or asked for more, goes on where it was; what another step, seed, sampler, label or guidance
    made stays apart.
    `animate` adds samples/animation.gif, the way from noise to data.

    SIGTERM or Ctrl-C: ends after the batch under way and returns None. FloatingPointError for a sample that is not
    finite. ConfigError as `load`, and for an animation of what there is none of.
    """
    trained = open_trained(directory, config, devices)
    if animate:
        require_animation(trained)
    drawn = samples_of(trained, num_samples, seed)
    if drawn is None:
        return None
    if animate:
        run_sampling.animate(trained, drawn[0], seed)
    return drawn[0]


# Evaluation


def stats(config: ConfigDict, out: str | Path, dataset: Dataset | None = None) -> Statistics:
    """Features of every example of config.eval.reference_split, once: moments and protocol, in the npz file `out`."""
    layout = make_layout()
    dataset = load_data(config, layout) if dataset is None else dataset
    return run_features.write_statistics(config, build_parts(config), dataset, layout, out)


def evaluate(
    directory: str | Path,
    num_samples: int = 1000,
    seed: int = 0,
    config: ConfigDict | None = None,
    dataset: Dataset | None = None,
    devices: list | None = None,
    folder: str = "eval",
) -> dict | None:
    """The loss on held-out data, config.eval.bpd, config.eval.metrics, and what config.eval.report says of samples.

    Of the newest checkpoint, or of each from config.eval.first_step to last_step. Writes report_STEP.json and .md into
    `folder`, the last of them as report.json and report.md too, and the pictures samples.png, neighbours.png, loss.png
    and loss_of_t.png; returns the last report. The samples are drawn, kept and resumed as `sample` does; None where a
    signal stopped that.
    """
    report = None
    for step in steps_to_evaluate(directory, config):
        report = evaluate_one(open_trained(directory, config, devices, step), num_samples, seed, dataset, folder)
        if report is None:
            return None
    return report


def steps_to_evaluate(directory: str | Path, config: ConfigDict | None) -> list[int | None]:
    """The checkpoints that config.eval asks for; None is the newest."""
    first, last = (config.eval.get(name, 0) if config else 0 for name in ("first_step", "last_step"))
    if not (first or last):
        return [None]
    with Checkpoints(Path(directory) / "checkpoints") as checkpoints:
        there = checkpoints.steps()
    steps = [step for step in there if first <= step and (not last or step <= last)]
    if not steps:
        raise ConfigError(f"no checkpoint from step {first} to {last or 'the newest'}: {directory} holds {there}")
    return steps


def evaluate_one(trained: Trained, num_samples: int, seed: int, dataset: Dataset | None, into: str) -> dict | None:
    """The report of one checkpoint."""
    config, parts, layout = trained.config, trained.parts, trained.layout
    dataset = load_data(config, layout) if dataset is None else check_data(config, dataset, layout)
    folder, text = trained.directory / into, ""
    judges = run_evaluation.judges_of(config, parts, dataset, layout, folder)
    with_bits = run_likelihood.wanted(config)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, parts, layout, dataset, trained.directory, None, None)
    report = {"step": trained.step, "seed": seed, "nfe": parts.sampler.nfe, "code": run_evaluation.code_version()}
    report["eval_loss"] = run.eval_loss(trained.model.params)
    if (curve := run_evaluation.loss_curve(trained, dataset)) is not None:
        report["loss_of_t"] = curve
        pictures.plot_loss_over_time(folder / "loss_of_t.png", **curve)
    if with_bits:
        report["bits"] = run_likelihood.bits_of(trained, dataset, seed, folder)
        if report["bits"] is None:
            return None
        text += "\n" + run_likelihood.text_of(report["bits"])
    if any(judges):
        found = run_evaluation.judged(trained, dataset, judges, num_samples, seed, folder)
        if found is None:
            return None
        text += f"\n{run_evaluation.text_of(found)}\n{found.pop('text', '')}"
        report |= found
    write_report(folder, report, text)
    pictures.plot_loss(folder / "loss.png", read_metrics(trained.directory))
    return report


def write_report(folder: Path, report: dict, text: str) -> None:
    """report_STEP and report, .json and .md; printed too."""
    cost = f", {report['nfe']:.4g} evaluations a sample" if report["nfe"] else ""
    head = f"Step {report['step']} (EMA), held-out loss {report['eval_loss']:.4f}{cost}, code {report['code']}"
    for name in (f"report_{report['step']}", "report"):
        workdir.write_atomic(folder / f"{name}.json", json.dumps(report, indent=1))
        workdir.write_atomic(folder / f"{name}.md", f"{head}\n{text}")
    print(f"{head}\n{text}")
