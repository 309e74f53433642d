"""Checkpoints of score_sde (flax msgpack) and score_sde_pytorch (torch zip) as trees of our parameters.

    flax    step   optimizer {target, state {step, param_states {… {grad_ema, grad_sq_ema}}}}   params_ema   lr …
    torch   step   model          optimizer {state {i: {step, exp_avg, exp_avg_sq}}}            ema {shadow_params …}

Both files hold the same values; `score_sde_names` maps their leaves to ours. Torch numbers the parameters in the order
of the model. Adam's state is indexed by these numbers. The list of averages is in the same order, without the
parameters that are not trained.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from published_lib.msgpack_file import read_msgpack
from published_lib.score_sde_names import from_flax, from_torch, torch_parameters, torch_trainable
from published_lib.torch_file import is_torch_file, read_torch


class Moments(NamedTuple):
    """Adam's state: the number of steps, and the averages of the gradients and of their squares."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # optax's name; tuple.count is not needed
    mu: Any
    nu: Any


class Published(NamedTuple):
    """A published checkpoint, in our trees of parameters."""

    step: int
    params: Any
    ema_params: Any
    moments: Moments | None


def read_published(path: str | Path, shapes: dict) -> Published:
    """The checkpoint in a file of either kind, for the network with these `parameter_shapes`.

    ValueError, on one line, for anything that is not a checkpoint of this network."""
    torch = is_torch_file(path)
    content = read_torch(path) if torch else read_msgpack(path)
    try:
        return _of_torch(content, shapes) if torch else _of_flax(content, shapes)
    except ValueError as error:  # on one line, whatever the names in the file
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


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
    """The tree of one of the averages, from a tree whose leaves are {grad_ema, grad_sq_ema}."""
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
    """None if the file has none. Parameters that are not trained have no entry; their moments are 0."""
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
