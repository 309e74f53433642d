"""--mode=import: converts a checkpoint of the published implementations into a work directory.

    flax    step   optimizer {target, state {step, param_states {… {grad_ema, grad_sq_ema}}}}   params_ema   lr …
    torch   step   model          optimizer {state {i: {step, exp_avg, exp_avg_sq}}}            ema {shadow_params …}
                     ↓                        ↓                                                      ↓
    ours    step   params         opt_state (count, mu, nu of optax's Adam)                     ema_params

`published_lib` reads both formats and matches their leaves with ours. PyTorch numbers parameters in the order of the
model. Adam's state uses these numbers, and so does the list of averages, which omits untrained parameters. The file's
learning rate, decay rates and random key are ignored: those of the config apply.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, to_json
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog
from published_lib.score_sde import Published, read_published
from published_lib.score_sde_names import parameter_shapes
from run_modes.card import card_of, signed
from run_modes.experiment import Experiment, make_experiment
from run_modes.paths import require_config
from run_modes.state import TRAIN, all_finite, key_for, with_objective
from sde_lib import TrainState


def import_checkpoint(config: ConfigDict, checkpoint: str | Path, directory: str | Path) -> int:
    """Converts a published checkpoint into a work directory of the config, at the file's step; returns the step.

    ConfigError, before anything is written, for a file that cannot be read or does not fit config.network, for
    parameters that are not finite, and for a directory that has checkpoints or belongs to another config.
    """
    require_config(config)
    experiment = make_experiment(config)
    shapes = parameter_shapes(experiment.network, experiment.shape)
    try:
        published = read_published(checkpoint, shapes)
    except FileNotFoundError as error:
        raise ConfigError(f"--checkpoint={checkpoint}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint: {error}") from error
    if not all_finite((published.params, published.ema_params)):
        raise ConfigError(f"--checkpoint: {checkpoint}: the parameters are not finite")
    published = with_objective_parameters(experiment, published)
    opt_state, resumed = optimizer_state(experiment.tx, published)
    state = TrainState(
        step=jnp.asarray(published.step, jnp.int32),
        params=published.params,
        ema_params=published.ema_params,
        opt_state=opt_state,
        key=key_for(config, TRAIN),
    )
    directory = workdir.claim(directory, to_json(config))
    training = config.training
    with Checkpoints(directory / "checkpoints", training.keep_newest, training.keep_every or None) as checkpoints:
        if checkpoints.steps():
            raise ConfigError(
                f"{directory} has checkpoints already, of steps {checkpoints.steps()}: choose another --workdir"
            )
        with MetricsLog(directory) as log:  # a line without metrics marks the first step
            log.rewind(published.step - 1)
            log.write(published.step)
        card = card_of(config, {"source": imported_from(checkpoint)}, sde=experiment.sde)
        checkpoints.save(published.step, jax.device_put(state, jax.devices()[0]), signed(card, state))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    print(f"{directory}: step {published.step}, {count:,} parameters and their EMA, from {checkpoint}")
    print(resumed)
    return published.step


def with_objective_parameters(experiment: Experiment, published: Published) -> Published:
    """With the parameters that config.objective adds to the network's, if any: the file's moments lack those."""
    params, ema_params = (with_objective(experiment, tree) for tree in (published.params, published.ema_params))
    if jax.tree.structure(params) == jax.tree.structure(published.params):
        return published
    return published._replace(params=params, ema_params=ema_params, moments=None)


def imported_from(checkpoint: str | Path) -> str:
    """The source in the card of an import: the file's name and SHA-256."""
    with open(checkpoint, "rb") as file:
        return f"imported from {Path(checkpoint).name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def optimizer_state(tx: optax.GradientTransformation, published: Published) -> tuple[Any, str]:
    """The state of `tx`, with the file's moments if both are Adam's, else a new one; and a sentence that says which."""
    state = jax.jit(tx.init)(published.params)
    again = "the optimizer state is new, and its learning-rate schedule starts again"
    if published.moments is None:
        return state, f"The file has no moments of Adam: {again}."
    places = [optax.tree.get_all_with_path(state, name) for name in ("mu", "nu", "count")]
    if [len(found) for found in places[:2]] != [1, 1] or not places[2]:
        return state, f"config.optimizer does not have the moments of exactly one Adam: {again}."
    count, mu, nu = published.moments
    filled = optax.tree.set(state, mu=mu, nu=nu, count=jnp.asarray(count, jnp.int32))
    return filled, f"Adam resumes with its moments after {count} steps."
