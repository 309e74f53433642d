"""--mode=train: trains a config's network in a work directory with checkpoints, or resumes the training."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import cast

import jax
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, to_json
from data_lib import Batches, Dataset, prefetch
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog, NoLog
from io_lib.processes import is_main_process, raise_on_all
from io_lib.signals import StopRequest
from run_modes.card import card_of, data_of
from run_modes.data import load_data
from run_modes.experiment import Experiment, make_experiment
from run_modes.labels import for_network
from run_modes.state import init_state_on_devices, restore_state
from run_modes.training_loop import TrainingRun, check_shapes


def train(
    config: ConfigDict, directory: str | Path, dataset: Dataset | None = None, devices: list | None = None
) -> bool:
    """Trains to config.training.num_steps, resuming from the newest checkpoint; True if training is complete.

    `dataset` replaces config.data, for arrays that are already in memory. SIGTERM or Ctrl-C writes a checkpoint and
    returns False. FloatingPointError for a loss that is not finite; the last good checkpoint stays. WriteError if a
    checkpoint cannot be written. ConfigError, before anything is compiled, for any error in config, data, devices or
    directory, and if another process trains in the directory.

    After `jax.distributed.initialize`, all processes make the same call. The batch is split over all devices. Each
    process reads its part of the batch and writes its share of a checkpoint; the first writes everything else, into a
    directory that all can access. An error in one process is raised in all. After a signal to one of them, all stop at
    the next line of the log.
    """
    with contextlib.ExitStack() as stack:
        given = dataset is not None
        with raise_on_all():
            experiment, dataset, batches, checkpoints = prepared(config, directory, dataset, devices)
            if is_main_process():
                stack.enter_context(workdir.lock(workdir.claim(directory, to_json(config)), "training"))
        with raise_on_all():  # also in the first process: two runs may have found the directory empty
            directory = workdir.require_claimed(directory, to_json(config))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(checkpoints)
        log = stack.enter_context(MetricsLog(directory) if is_main_process() else NoLog())
        start, total = checkpoints.latest_step() or 0, config.training.num_steps
        if start >= total:
            log.rewind(start)
            say(f"{directory} is trained: {start} steps")
            return True
        state = restore_state(experiment, checkpoints) if start else init_state_on_devices(experiment)
        start = int(state.step)  # that of an earlier checkpoint, if the newest was damaged
        log.rewind(start)
        if start:
            say(f"{directory}: training resumes at step {start}")
        card = card_of(config, data_of(config, dataset, given))
        run = TrainingRun(experiment, dataset, directory, log, checkpoints, card)
        feed = prefetch(
            batches, start, total, lambda batch: experiment.devices.put(for_network(config, batch)), ahead=2
        )
        feed = stack.enter_context(contextlib.closing(cast(Generator, feed)))
        step = run.loop(state, start, feed, stop)
    if step < total:
        say(f"stopped at step {step}: the same command resumes {directory} there")
    return step == total


def prepared(
    config: ConfigDict, directory: str | Path, dataset: Dataset | None, devices: list | None
) -> tuple[Experiment, Dataset, Batches, Checkpoints]:
    """Everything that training requires. ConfigError for any error that can be found before it starts."""
    experiment, training = make_experiment(config, devices, processes=True), config.training
    dataset = load_data(config, experiment.devices, dataset)
    check_shapes(experiment)
    try:
        place = jax.process_index(), jax.process_count()
        batches = Batches(dataset.train, experiment.transform, training.batch_size, config.seed, training.flip, *place)
        checkpoints = Checkpoints(Path(directory) / "checkpoints", training.keep_newest, training.keep_every or None)
    except ValueError as error:
        raise ConfigError(f"config.training: {error}") from error
    return experiment, dataset, batches, checkpoints


def say(text: str) -> None:
    """Prints in the main process only."""
    if is_main_process():
        print(text)
