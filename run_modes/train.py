"""--mode=train: from a config, and data, to a work directory with checkpoints; resumes by itself."""

import contextlib
from pathlib import Path

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
    """Trains to config.training.num_steps, resuming from the newest checkpoint; True when it got there.

    `dataset` takes the place of config.data, for arrays that are already in memory. SIGTERM or Ctrl-C writes a
    checkpoint and returns False. FloatingPointError at a loss that is not finite: the last good checkpoint stays;
    WriteError if a checkpoint cannot be written. ConfigError, before anything is compiled, for whatever is wrong with
    config, data, devices or directory, and if another run trains in it.

    After `jax.distributed.initialize`, all its processes make the same call: the batch is split over the devices of
    all, each reads its part of it and writes its share of a checkpoint; the first writes all else, into a directory
    that all can see. What one process refuses, all refuse. They stop together, at the next line of the log after one
    is asked to.
    """
    with contextlib.ExitStack() as stack:
        given = dataset is not None
        with raise_on_all():
            experiment, dataset, batches, checkpoints = prepared(config, directory, dataset, devices)
            if is_main_process():
                stack.enter_context(workdir.lock(workdir.claim(directory, to_json(config)), "training"))
        with raise_on_all():  # of the first too: two runs may have found it empty
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
        start = int(state.step)  # older than the newest checkpoint, if that was damaged
        log.rewind(start)
        if start:
            say(f"{directory}: training resumes at step {start}")
        card = card_of(config, data_of(config, dataset, given))
        run = TrainingRun(experiment, dataset, directory, log, checkpoints, card)
        feed = prefetch(
            batches, start, total, lambda batch: experiment.devices.put(for_network(config, batch)), ahead=2
        )
        step = run.loop(state, start, stack.enter_context(contextlib.closing(feed)), stop)
    if step < total:
        say(f"stopped at step {step}: the same command resumes {directory} there")
    return step == total


def prepared(
    config: ConfigDict, directory: str | Path, dataset: Dataset | None, devices: list | None
) -> tuple[Experiment, Dataset, Batches, Checkpoints]:
    """What training needs. ConfigError for whatever can be found wrong before it starts."""
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
    """Once, however many processes there are."""
    if is_main_process():
        print(text)
