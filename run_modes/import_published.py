"""A checkpoint of the published implementations becomes a work directory: parameters, their average, Adam's moments.

    flax    step   optimizer {target, state {step, param_states {… {grad_ema, grad_sq_ema}}}}   params_ema   lr …
    torch   step   model          optimizer {state {i: {step, exp_avg, exp_avg_sq}}}            ema {shadow_params …}
                     ↓                        ↓                                                      ↓
    ours    step   params         opt_state (count, mu, nu of optax's Adam)                     ema_params

Both files name the same things; `io_lib` reads them, `models.reference` says which leaf is which. Torch numbers the
parameters in the order of the model: Adam's state goes by it, and so does the list of averages, which leaves out what
is not trained. Learning rate, rates of decay and the random key of a file stay behind: those of the config hold.
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
from run_modes.experiment import make_experiment
from run_modes.state import TRAIN, all_finite, key_for
from sde_lib import TrainState


def import_checkpoint(config: ConfigDict, checkpoint: str | Path, directory: str | Path) -> int:
    """Converts a published checkpoint into a work directory of the config, at the file's step; returns the step.

    ConfigError, before anything is written, for a file that cannot be read or is not of config.network, for parameters
    that are not finite, and for a directory that has checkpoints or belongs to another config.
    """
    experiment = make_experiment(config)
    shapes = parameter_shapes(experiment.network, experiment.shape)
    try:
        published = read_published(checkpoint, shapes)
    except FileNotFoundError as error:
        raise ConfigError(f"--checkpoint={checkpoint}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint: {error}") from error
    if not all_finite((published.params, published.ema_params)):
        raise ConfigError(f"--checkpoint: {checkpoint}: its parameters are not finite")
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
            raise ConfigError(f"{directory} has checkpoints already, of steps {checkpoints.steps()}: import elsewhere")
        with MetricsLog(directory) as log:  # a line without numbers: from here on
            log.rewind(published.step - 1)
            log.write(published.step)
        card = card_of(config, {"source": imported_from(checkpoint)})
        checkpoints.save(published.step, jax.device_put(state, jax.devices()[0]), signed(card, state))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    print(f"{directory}: step {published.step}, {count:,} parameters and their average (EMA), from {checkpoint}")
    print(resumed)
    return published.step


def imported_from(checkpoint: str | Path) -> str:
    """What the card of an import says of its source: the name of the file, and the SHA-256 of what it holds."""
    with open(checkpoint, "rb") as file:
        return f"imported from {Path(checkpoint).name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def optimizer_state(tx: optax.GradientTransformation, published: Published) -> tuple[Any, str]:
    """The state of `tx`, with the file's moments where both have some of Adam, else anew; and a line that says so."""
    state = jax.jit(tx.init)(published.params)
    again = "the optimizer starts anew, its learning rate with it"
    if published.moments is None:
        return state, f"The file has no moments of Adam: {again}."
    places = [optax.tree.get_all_with_path(state, name) for name in ("mu", "nu", "count")]
    if [len(found) for found in places[:2]] != [1, 1] or not places[2]:
        return state, f"config.optimizer keeps no moments of one Adam: {again}."
    count, mu, nu = published.moments
    filled = optax.tree.set(state, mu=mu, nu=nu, count=jnp.asarray(count, jnp.int32))
    return filled, f"Adam goes on from its moments after {count} steps."
