"""Training: pure functions of a state and a batch.

    loss(θ) = mean_i loss_i(θ),   θ ← θ + optax update,   θ_EMA ← r θ_EMA + (1 − r) θ                  (1)

The randomness of a step is a function of (key, step, example), so a state needs no other memory of it, and a run
resumes exactly. The EMA starts as a copy of the parameters and warms up,

    r_k = min(r, (1 + k)/(10 + k)) after k steps,                                                  (2)

so that an early checkpoint can be used. Nothing here knows of devices: under `jax.jit` with a batch sharded over a
mesh the mean in (1) is over the whole batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import Leaf, Node
from sde_lib.noise import sample_keys
from sde_lib.parameterization import Parameterization, make_score_fn
from sde_lib.sde import SDE

Params = Any
Batch = dict[str, Array]
Loss = Callable[..., Float[Array, " B"]]
Augment = Callable[..., tuple[Array, Array]]


class TrainState(Node):
    """All that a run carries from step to step: step int32 [], key a typed key [] that never changes, since a step
    folds its number in."""

    step: Leaf
    params: Params
    ema_params: Params
    opt_state: optax.OptState
    key: Leaf


def init_state(key: Key[Array, ""], params: Params, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the EMA is a copy, since an alias could not be donated."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        key=key,
    )


def ema_rate(step: Integer[Array, ""], rate: float, dtype=jnp.float32) -> Float[Array, ""]:
    """r_k (2) for the update after step k."""
    k = step.astype(dtype)
    return jnp.minimum(rate, (1 + k) / (10 + k))


def adam(
    learning_rate: float = 2e-4,
    warmup_steps: int = 5000,
    decay_steps: int | None = None,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam after a clip of the global norm, the learning rate rising linearly over `warmup_steps`.

    With `decay_steps` it then falls along a half cosine to 0 at that step, and the rise takes at most half of them;
    without, it stays. The published experiments use the defaults (Song et al. 2021, appendix H).
    """
    schedule = optax.schedules.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate
    if decay_steps is not None:
        rise = min(warmup_steps, decay_steps // 2)
        schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, learning_rate, rise, decay_steps)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
    )


def batch_loss(
    network,
    params,
    sde: SDE,
    parameterization: Parameterization,
    loss: Loss,
    key,
    batch: Batch,
    train: bool,
    augment: Augment | None = None,
):
    """The mean of `loss` over the batch, weighted by batch["mask"] where there is one (0 for padding)."""
    loss_key, dropout_key = jax.random.split(key)
    x, cond = batch["x"], batch.get("label")
    if augment is not None:
        x, vector = augment(sample_keys(jax.random.fold_in(key, 2), jnp.arange(x.shape[0])), x)
        cond = vector if cond is None else (cond, vector)
    apply = partial(network, params, cond=cond, key=dropout_key if train else None, train=train)
    losses = loss(loss_key, make_score_fn(apply, sde, parameterization), sde, x)
    mask = batch.get("mask", jnp.ones_like(losses))
    return jnp.sum(losses * mask) / jnp.sum(mask)


def make_train_step(
    network,
    sde: SDE,
    parameterization: Parameterization,
    loss: Loss,
    tx: optax.GradientTransformation,
    ema: float = 0.9999,
    augment: Augment | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """(state, batch) → (state, metrics): one step of (1).

    `network` is called as (params, x, c_noise, cond=, key=, train=); batch["x"] is [B, ...], batch["label"] the
    condition, if any. `augment`, as `Augmentation`, gives (x, vector) for (keys [B], x): the condition is then the
    vector, or the pair (label, vector).
    """

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        objective = partial(batch_loss, network, augment=augment)
        value, grads = jax.value_and_grad(objective)(state.params, sde, parameterization, loss, key, batch, True)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        rate = ema_rate(state.step, ema)
        state = state.replace(
            step=state.step + 1,
            params=params,
            ema_params=jax.tree.map(lambda e, p: (rate * e + (1 - rate) * p).astype(p.dtype), state.ema_params, params),
            opt_state=opt_state,
        )
        return state, {"loss": value, "grad_norm": optax.tree.norm(grads)}

    return train_step


def make_eval_step(network, sde: SDE, parameterization: Parameterization, loss: Loss):
    """(params, key, batch) → the loss without dropout, and its number of examples: for a mean over many batches."""

    def eval_step(params: Params, key: Key[Array, ""], batch: Batch):
        value = batch_loss(network, params, sde, parameterization, loss, key, batch, False)
        return value, jnp.sum(batch["mask"])

    return eval_step


def repeat(train_step):
    """(state, batches) → (state, metrics), both with a leading axis of steps: several steps in one call.

    For accelerators, where the host is the bottleneck of a small network. XLA's CPU compiler runs the gradients of
    convolutions many times slower inside a loop than outside one, so there a call should be a single step.
    """

    def train_steps(state: TrainState, batches: Batch):
        return jax.lax.scan(train_step, state, batches)

    return train_steps
