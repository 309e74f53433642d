"""Training states, initialized or restored, and the random keys of each use of the seed."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from io_lib import hub
from io_lib.checkpoint import Checkpoints
from run_modes.experiment import Experiment, first_inputs, no_augmentation
from sde_lib import TrainState, init_state

INIT, TRAIN, EVAL, SNAPSHOT = range(4)
"""Uses of the config's seed; each number is folded into jax.random.key(seed)."""


def key_for(config: ConfigDict, use: int) -> jax.Array:
    """The key of one use of the config's seed."""
    return jax.random.fold_in(jax.random.key(config.seed), use)


def new_state(experiment: Experiment) -> TrainState:
    """The training state at step 0, a function of the config."""
    config = experiment.config
    cond = () if experiment.augment is None else (no_augmentation(config, 1),)
    cond = cond if experiment.conditions is None else (experiment.conditions.zeros(1),)
    params = experiment.network.init(key_for(config, INIT), *first_inputs(config), *cond)
    return init_state(key_for(config, TRAIN), with_objective(experiment, params), experiment.tx)


def with_objective(experiment: Experiment, params):
    """The network's parameters with those that the objective adds, if any."""
    return experiment.objective.init(jax.random.fold_in(key_for(experiment.config, INIT), 1), params)


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the training state, without computing it."""
    return experiment.devices.abstract(jax.eval_shape(partial(new_state, experiment)))


def init_state_on_devices(experiment: Experiment) -> TrainState:
    """A new state on all devices."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(experiment))
    return jax.jit(partial(new_state, experiment), out_shardings=shardings)()


def restore_state(
    experiment: Experiment,
    checkpoints: Checkpoints,
    step: int | None = None,
    only: tuple[str, ...] = (),
    set_aside: bool = False,
) -> TrainState:
    """The checkpoint of `step`, or the newest, on all devices; only the fields `only` of the state, if any are named.

    `set_aside`, for training alone: a damaged newest checkpoint is moved away. ConfigError if there is none, or if it
    is damaged or belongs to another config or version.
    """
    try:
        return checkpoints.restore(abstract_state(experiment), step, only, set_aside)
    except FileNotFoundError as error:
        raise ConfigError(f"{error}: train first") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def parameters_of(experiment: Experiment, directory: str) -> Any:
    """The EMA parameters of another run's newest checkpoint, on all devices, to start training from.

    The run may be on the Hub, hf:OWNER/NAME. ConfigError if there is no checkpoint, or naming the first parameter
    of another name, shape or dtype.
    """
    try:
        with Checkpoints(Path(hub.local(directory)) / "checkpoints") as checkpoints:
            return checkpoints.restore(abstract_state(experiment), only=("ema_params",)).ema_params
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.initial={directory}: {error}") from error


def digest(params) -> str:
    """SHA-256 of the bytes of all leaves, in order."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


@jax.jit
def all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
