"""--mode=train: trains a config's network in a work directory with checkpoints, or resumes the training."""

import contextlib
import json
import logging
from collections.abc import Generator
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, to_json
from data_lib import Batches, Dataset, prefetch
from data_lib.identity import identity
from io_lib import hub, workdir
from io_lib.checkpoint import Checkpoints, DamagedError
from io_lib.metrics import PROJECT, WRITERS, MetricsLog, NoLog
from io_lib.processes import is_main_process, raise_on_all
from io_lib.signals import StopRequest
from io_lib.writers import require_writers
from run_modes import changes
from run_modes.base_config import write_base
from run_modes.card import card_of, data_of, generator
from run_modes.conditions import ignored, network_batch, with_conditions
from run_modes.data import load_data
from run_modes.experiment import Experiment, make_experiment
from run_modes.page import write_page
from run_modes.paths import with_absolute_paths
from run_modes.show import Shown
from run_modes.state import digest, init_state_on_devices, parameters_of, restore_state
from run_modes.training_loop import Steps, TrainingRun, check_shapes
from sde_lib import TrainState, sample_keys

log = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    directory: str | Path,
    dataset: Dataset | None = None,
    devices: list | None = None,
    allow_changes: bool = False,
    show: bool = False,
    base: tuple[str, ConfigDict] | None = None,
) -> bool:
    """Trains to config.training.num_steps, resuming from the newest checkpoint; True if training is complete.

    `dataset` replaces config.data, for arrays that are already in memory. config.initial, another work directory,
    replaces the parameters that the seed would draw. A resumed run may differ in logging, checkpoints and the number of
    steps. With `allow_changes` (--continue) it may also differ in optimizer, batch size and others, from the current
    step on (`run_modes.changes`). In a notebook, `show` draws the losses and the last snapshot below the cell. `base`,
    a name and a config, is what the run's page compares its config with: the nearest shipped one by default.

    SIGTERM, Ctrl-C and Jupyter's stop button write a checkpoint and return False. FloatingPointError for a loss that is
    not finite; the last good checkpoint stays. WriteError if a checkpoint cannot be written. ConfigError, before
    anything is compiled, for any error in config, data, devices or directory, and if another process trains in the
    directory.

    After `jax.distributed.initialize`, all processes make the same call. The batch is split over all devices. Each
    process reads its part of the batch and writes its share of a checkpoint; the first writes everything else, into a
    directory that all can access. An error in one process is raised in all. After a signal to one of them, all stop at
    the next line of the log.
    """
    with contextlib.ExitStack() as stack:
        given = dataset is not None
        with raise_on_all():
            hub.require_local(directory)
            config = with_absolute_paths(config)
            experiment, steps, dataset, batches, checkpoints = prepared(config, directory, dataset, devices)
            if is_main_process():
                stack.enter_context(
                    workdir.lock(workdir.claim(directory, to_json(experiment.config), compare=False), "training")
                )
        with raise_on_all():
            config = experiment.config
            directory, data, newest = Path(directory), identity(dataset), checkpoints.latest_step() or 0
            config, changed = changes.accepted(directory, config, data, newest, allow_changes)
            experiment = experiment._replace(config=config)
        stop = stack.enter_context(StopRequest())
        stack.enter_context(checkpoints)
        log = stack.enter_context(log_of(directory, config))
        start, total = newest, config.training.num_steps
        if start >= total:
            log.rewind(start)
            say(f"{directory} is trained: {start} steps")
            return True
        with raise_on_all():
            log.open()
            state, about = first_state(experiment, checkpoints, start)
            start = int(state.step)  # that of an earlier checkpoint, if the newest was damaged
            if is_main_process():
                changes.record(directory, config, data, start, changed, **about)
                if base is not None:
                    write_base(directory, *base)
        with raise_on_all():  # all processes must use the same directory
            workdir.require_claimed(directory, to_json(config))
        log.rewind(start)
        if start:
            say(f"{directory}: training resumes at step {start}")
        for remark in changes.remarks(config, changed, start):
            say(remark)
        card = card_of(config, data_of(config, dataset, given, data), changes.history(directory), experiment.sde)
        run = TrainingRun(experiment, steps, dataset, directory, log, checkpoints, card, Shown(directory, show))
        feed = prefetch(
            batches, start, total, lambda batch: experiment.devices.put(network_batch(experiment, batch)), ahead=2
        )
        feed = stack.enter_context(contextlib.closing(cast(Generator, feed)))
        step = run.loop(state, start, feed, stop)
    write_page(directory, run.newest_card)
    if step < total:
        say(f"stopped at step {step}: the same command resumes {directory} there")
    return step == total


def prepared(
    config: ConfigDict, directory: str | Path, dataset: Dataset | None, devices: list | None
) -> tuple[Experiment, Steps, Dataset, Batches, Checkpoints]:
    """Everything that training requires. ConfigError for any error that can be found before it starts."""
    experiment, training = make_experiment(config, devices, processes=True), config.training
    dataset = load_data(config, experiment.devices, dataset, training=True)
    experiment = conditioned(experiment, dataset, Path(directory), devices)
    require_writers(training.get("writers", ()))
    steps = check_shapes(experiment)
    require_prior(experiment)
    try:
        place = jax.process_index(), jax.process_count()
        batches = Batches(dataset.train, experiment.transform, training.batch_size, config.seed, training.flip, *place)
        checkpoints = Checkpoints(Path(directory) / "checkpoints", training.keep_newest, training.keep_every or None)
    except ValueError as error:
        raise ConfigError(f"config.training: {error}") from error
    if config.get("initial", "") and not checkpoints.steps():
        parameters_of(experiment, config.initial)  # for its errors
    return experiment, steps, dataset, batches, checkpoints


def conditioned(experiment: Experiment, dataset: Dataset, directory: Path, devices: list | None) -> Experiment:
    """The experiment with its conditions, which are recorded in the config; a warning for those that are ignored."""
    places = [directory, *([Path(initial)] if (initial := experiment.config.get("initial", "")) else [])]
    saved = next((workdir.load_config(place) for place in places if (place / workdir.CONFIG).is_file()), None)
    config = with_conditions(experiment.config, experiment.network, dataset, saved)
    if config is not experiment.config:
        experiment = make_experiment(config, devices, processes=True)
    conditions = experiment.conditions
    ours = str(config.network.get("call", "")).startswith("models:")  # they use what they take
    if conditions is not None and not ours:
        for name in ignored(experiment.network, conditions, dataset, experiment.shape):
            log.warning("the network ignores its condition %r: its output does not depend on it", name)
    return experiment


def log_of(directory: Path, config: ConfigDict) -> MetricsLog | NoLog:
    """The log with the writers of config.training; in other processes than the main one it writes nothing."""
    if not is_main_process():
        return NoLog()
    training = config.training
    writers, project = training.get("writers", WRITERS), training.get("wandb_project", PROJECT)
    return MetricsLog(directory, writers, project, json.loads(to_json(config)))


def require_prior(experiment: Experiment) -> None:
    """ConfigError if samples could not be drawn after training, since the process has no prior for these events."""
    draw = lambda keys: experiment.sde.prior_sample(keys, experiment.shape)  # noqa: E731
    try:
        jax.eval_shape(draw, sample_keys(jax.random.key(0), jnp.arange(2)))
    except ValueError as error:
        raise ConfigError(f"config.sde: {error}") from error


def first_state(experiment: Experiment, checkpoints: Checkpoints, start: int) -> tuple[TrainState, dict]:
    """The state to train from, and what to record about it: where its parameters come from, if not from the seed."""
    if start:
        require_generator(checkpoints, start)
        return restore_state(experiment, checkpoints, set_aside=True), {}
    state, initial = init_state_on_devices(experiment), experiment.config.get("initial", "")
    if not initial:
        return state, {}
    params = parameters_of(experiment, initial)
    state = state.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
    say(f"parameters start as the EMA parameters of {initial}; optimizer, step and learning rate start anew")
    return state, {"initial": {"directory": initial, "parameters": digest(state.ema_params)}}


def require_generator(checkpoints: Checkpoints, step: int) -> None:
    """ConfigError if the run draws its noise by another random generator than this process."""
    try:
        was = checkpoints.card(step).get("generator", generator())
    except DamagedError:
        return  # restoring sets it aside
    if was != generator():
        raise ConfigError(
            f"this run draws its noise by the random generator {was}, this process by {generator()}: set "
            f"JAX_DEFAULT_PRNG_IMPL={was} to resume it"
        )


def say(text: str) -> None:
    """Prints in the main process only."""
    if is_main_process():
        print(text)
