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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from configs.spec import ConfigError, to_json
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog
from io_lib.msgpack_file import read_msgpack
from io_lib.torch_file import is_torch_file, read_torch
from models.reference import from_flax, from_torch, parameter_shapes, torch_parameters, torch_trainable
from run_card import card_of, signed
from run_parts import TRAIN, all_finite, build_parts, stream
from sde_lib.training import TrainState


class Moments(NamedTuple):
    """What Adam remembers: the number of its steps, and the averages of gradients and of their squares."""

    count: int
    mu: Any
    nu: Any


class Published(NamedTuple):
    """A published checkpoint, in our trees of parameters."""

    step: int
    params: Any
    ema_params: Any
    moments: Moments | None


def import_checkpoint(config: ConfigDict, checkpoint: str | Path, directory: str | Path) -> int:
    """Makes a work directory of the config with one checkpoint, that of the file, at the file's step; returns the step.

    ConfigError, before anything is written, for a file that cannot be read or is not of config.network, for parameters
    that are not finite, and for a directory that has checkpoints or belongs to another config.
    """
    parts = build_parts(config)
    shapes = parameter_shapes(parts.network, tuple(config.shape))
    try:
        published = read_published(checkpoint, shapes)
    except FileNotFoundError as error:
        raise ConfigError(f"--checkpoint={checkpoint}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint: {error}") from error
    if not all_finite((published.params, published.ema_params)):
        raise ConfigError(f"--checkpoint: {checkpoint}: its parameters are not finite")
    opt_state, resumed = optimiser_state(parts.tx, published)
    state = TrainState(
        step=jnp.asarray(published.step, jnp.int32),
        params=published.params,
        ema_params=published.ema_params,
        opt_state=opt_state,
        key=stream(config, TRAIN),
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


def optimiser_state(tx: optax.GradientTransformation, published: Published) -> tuple[Any, str]:
    """The state of `tx`, with the file's moments where both have some of Adam, else anew; and a line that says so."""
    state = jax.jit(tx.init)(published.params)
    again = "the optimiser starts anew, its learning rate with it"
    if published.moments is None:
        return state, f"The file has no moments of Adam: {again}."
    places = [optax.tree.get_all_with_path(state, name) for name in ("mu", "nu", "count")]
    if [len(found) for found in places[:2]] != [1, 1] or not places[2]:
        return state, f"config.optimizer keeps no moments of one Adam: {again}."
    count, mu, nu = published.moments
    filled = optax.tree.set(state, mu=mu, nu=nu, count=jnp.asarray(count, jnp.int32))
    return filled, f"Adam goes on from its moments after {count} steps."


def read_published(path: str | Path, shapes: dict) -> Published:
    """The file, of either kind. ValueError in one line for anything that is not a checkpoint of this network."""
    torch = is_torch_file(path)
    content = read_torch(path) if torch else read_msgpack(path)
    try:
        return _of_torch(content, shapes) if torch else _of_flax(content, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# flax


def _of_flax(file: dict, shapes: dict) -> Published:
    _require_entries(file, "the file", ("step", "optimizer", "params_ema"), ("lr", "model_state", "ema_rate", "rng"))
    if jax.tree.leaves(file.get("model_state")):
        raise ValueError("expected an empty model_state, since networks have parameters only")
    optimizer = file["optimizer"]
    _require_entries(optimizer, "optimizer", ("target",), ("state",))
    params, ema_params = (from_flax(_tree(tree), shapes) for tree in (optimizer["target"], file["params_ema"]))
    moments, state = None, optimizer.get("state")
    if state:
        _require_entries(state, "optimizer/state", ("step", "param_states"))
        mu, nu = (from_flax(_chosen(state["param_states"], name), shapes) for name in ("grad_ema", "grad_sq_ema"))
        moments = Moments(_count(state["step"]), mu, nu)
    return Published(_count(file["step"]), params, ema_params, moments)


def _tree(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"expected parameters as named entries, got {type(value).__name__}")
    return value


def _chosen(states: Any, name: str) -> dict:
    """Of a tree whose leaves are {grad_ema, grad_sq_ema}, the tree of one of them."""
    states = _tree(states)
    if states.keys() == {"grad_ema", "grad_sq_ema"}:
        return states[name]
    return {key: _chosen(value, name) for key, value in states.items()}


# torch


def _of_torch(file: Any, shapes: dict) -> Published:
    _require_entries(file, "the file", ("optimizer", "model", "ema", "step"))
    params = torch_parameters(_tree(file["model"]))
    trained = torch_trainable(params)
    _require_entries(file["ema"], "ema", ("shadow_params",), ("decay", "num_updates"))
    averages = file["ema"]["shadow_params"]
    if not isinstance(averages, list) or len(averages) != len(trained):
        got = len(averages) if isinstance(averages, list) else type(averages).__name__
        raise ValueError(f"expected {len(trained)} averages in ema/shadow_params, one for each parameter, got {got}")
    return Published(
        step=_count(file["step"]),
        params=from_torch(params, shapes),
        ema_params=from_torch(params | dict(zip(trained, averages, strict=True)), shapes),
        moments=_torch_moments(file["optimizer"], params, trained, shapes),
    )


def _torch_moments(optimizer: Any, params: dict, trained: list[str], shapes: dict) -> Moments | None:
    """None where the file has none. What is not trained has no entry, and moments of 0."""
    _require_entries(optimizer, "optimizer", ("state", "param_groups"))
    state = optimizer["state"]
    if not state:
        return None
    numbers = {name: index for index, name in enumerate(params)}
    expected = [numbers[name] for name in trained]
    if not isinstance(state, dict) or sorted(map(str, state)) != sorted(map(str, expected)):
        raise ValueError(f"expected moments of {len(expected)} parameters, by their numbers, in optimizer/state")
    for index in expected:
        _require_entries(state[index], f"optimizer/state/{index}", ("step", "exp_avg", "exp_avg_sq"))
    counts = {_count(state[index]["step"]) for index in expected}
    if len(counts) > 1:
        raise ValueError(f"expected one number of steps for all moments, got {sorted(counts)[:4]}")
    zeros = {name: np.zeros_like(value) for name, value in params.items()}
    trees = (
        from_torch(zeros | {name: state[i][key] for i, name in zip(expected, trained, strict=True)}, shapes)
        for key in ("exp_avg", "exp_avg_sq")
    )
    return Moments(counts.pop(), *trees)


# Both


def _require_entries(value: Any, where: str, needed: tuple[str, ...], known: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected named entries in {where}, got {type(value).__name__}")
    missing = [name for name in needed if name not in value]
    unknown = [str(name)[:40] for name in value if name not in (*needed, *known)]
    if missing or unknown:
        raise ValueError(f"expected {', '.join(needed)} in {where}; missing: {', '.join(missing) or 'none'}, unknown: "
                         f"{', '.join(unknown[:6]) or 'none'}")  # fmt: skip


def _count(value: Any) -> int:
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "iuf" or not 0 <= array < 2**31 or array != int(array):
        raise ValueError(f"expected a number of steps, got {array.dtype} {str(value)[:40]}")
    return int(array)
