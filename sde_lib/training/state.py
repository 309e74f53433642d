"""The training state, its update, and the moving average of the parameters (EMA).

    θ ← θ + optax update,   θ_EMA ← r_k θ_EMA + (1 − r_k) θ                                              (1)

The EMA starts as a copy of the parameters and warms up,

    r_k = min(r, (1 + k)/(10 + k)) after k steps,                                                        (2)

so that an early checkpoint is usable.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import Leaf, PyTreeNode

Params = Any


class TrainState(PyTreeNode):
    """All that a run carries from step to step: step int32 [], and key, a typed key [].

    The key never changes, since each step folds its number into it. `params` are all trained parameters: the network's,
    or what `Objective.init` returned.
    """

    step: Leaf
    params: Params
    ema_params: Params
    opt_state: optax.OptState
    key: Leaf


def init_state(key: Key[Array, ""], params: Params, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step. The EMA is a copy, since an alias could not be donated."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        key=key,
    )


def frozen_state(key: Key[Array, ""], params: Params, step: Integer[Array, ""] | int = 0) -> TrainState:
    """A state to evaluate an objective with: `params` are also the EMA, and there is no optimizer."""
    return TrainState(step=jnp.asarray(step, jnp.int32), params=params, ema_params=params, opt_state=(), key=key)


def ema_rate(step: Integer[Array, ""], rate: float, dtype=jnp.float32) -> Float[Array, ""]:
    """r_k (2) for the update after step k."""
    k = step.astype(dtype)
    return jnp.minimum(rate, (1 + k) / (10 + k))


def updated(state: TrainState, grads: Params, tx: optax.GradientTransformation, ema: float) -> TrainState:
    """The state after one update (1)."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = ema_rate(state.step, ema)
    average = lambda e, p: (rate * e + (1 - rate) * p).astype(p.dtype)  # noqa: E731
    ema_params = jax.tree.map(average, state.ema_params, params)
    return state.replace(step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state)
