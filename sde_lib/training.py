"""Training: pure functions of a state and a batch.

    loss(θ) = mean_i loss_i(θ),   θ ← θ + optax update,   θ_EMA ← r θ_EMA + (1 − r) θ                  (1)

The randomness of a step is a function of (key, step, example), so a state needs no other memory of it, and a run
resumes exactly. The EMA starts as a copy of the parameters and warms up,

    r_k = min(r, (1 + k)/(10 + k)) after k steps,                                                  (2)

so that an early checkpoint can be used. Nothing here knows of devices: under `jax.jit` with a batch sharded over a
mesh the mean in (1) is over the whole batch.

A batch that does not fit is seen in k parts, one after another, with the same loss and gradient as at once, but for
dropout, whose masks are others:

    ∇loss(θ) = Σ_j ∇ mean_i m_ij loss_i(θ),   m_ij = 1 where i mod k = j, else 0                         (3)

in each of which the network, whose activations are what takes the memory, sees only the examples with m_ij = 1.
"""

import inspect
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
        clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
    )


def global_norm(tree: Params) -> Float[Array, ""]:
    """√Σ g² over all entries of all leaves.

    On a CPU it is one sum, over the leaves laid end to end: XLA takes a sum for each to be three loops to compile."""
    leaves = jax.tree.leaves(tree)
    if jax.default_backend() != "cpu" or len({leaf.dtype for leaf in leaves}) != 1 or jnp.iscomplexobj(leaves[0]):
        return optax.tree.norm(tree)
    return jnp.sqrt(jnp.sum(jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]) ** 2))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """g min(1, max_norm / √Σ g²), as optax's of this name, by a factor that is the same for all entries.

    optax divides each entry by the norm, for which XLA writes all of them once more."""

    def clip(updates, state, params=None):
        factor = jnp.minimum(1.0, max_norm / global_norm(updates))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, clip)


def batch_loss(
    network, params, sde: SDE, parameterization: Parameterization, loss: Loss, key, batch: Batch, train: bool
):
    """The mean of `loss` over the batch, weighted by batch["mask"] where there is one (0 for padding)."""
    return _shares(network, params, sde, parameterization, loss, key, batch, train)[0]


def _shares(network, params, sde, parameterization, loss, key, batch, train, part=None):
    """The mean, and what each example contributes to it [B]; with `part`, those of which it is true alone."""
    loss_key, dropout_key = jax.random.split(key)
    apply = partial(network, params, cond=batch.get("label"), key=dropout_key if train else None, train=train)
    losses = loss(loss_key, make_score_fn(apply, sde, parameterization), sde, batch["x"])
    mask = batch.get("mask", jnp.ones_like(losses))
    shares = jnp.where(mask > 0, losses, 0) * mask / jnp.sum(mask)  # padding may be anything, also not finite
    shares = shares if part is None else jnp.where(part, shares, 0)
    return jnp.sum(shares), shares


def times_of(loss: Loss, key: Key[Array, ""], sde: SDE, n: int) -> Float[Array, " n"] | None:
    """The times that a loss here draws from its key, without the loss; None for one that takes no law of times."""
    law = getattr(loss, "keywords", {}).get("sample_time")
    if law is None:
        parameter = inspect.signature(loss).parameters.get("sample_time")
        law = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return None if law is None else law(jax.random.split(key)[0], sde, n)


def every(network: Callable, j: int | Integer[Array, ""], k: int, after: Array) -> Callable:
    """The network of examples j, j + k, j + 2k … of a batch, 0 for the others, which it does not see.

    Every k-th and not the first B/k, so that each part is spread over as many devices as the batch. It is evaluated
    `after` a number is known, which it does not depend on in a way that the compiler could see through: left to
    itself, XLA's scheduler for CPUs evaluates all parts at a time, and drops optimization barriers before that.
    """
    never = jnp.isnan(after) & jnp.isinf(after)

    def of_some(params: Params, x: Array, c_noise: Array, *, cond=None, key=None, train: bool = False) -> Array:
        if x.shape[0] % k:
            raise ValueError(f"a batch of {x.shape[0]} cannot be seen in {k} equal parts")
        parts = lambda a: a.reshape(-1, k, *a.shape[1:])  # noqa: E731
        some = lambda a: jax.lax.dynamic_index_in_dim(parts(a), j, 1, keepdims=False)  # noqa: E731
        x, c_noise = (jnp.where(never, 0, a) for a in (x, c_noise))
        key = None if key is None else jax.random.fold_in(key, j)
        out = network(params, some(x), some(c_noise), cond=jax.tree.map(some, cond), key=key, train=train)
        whole = jnp.zeros((*parts(c_noise).shape, *out.shape[1:]), out.dtype)
        return jax.lax.dynamic_update_index_in_dim(whole, out, j, 1).reshape(x.shape[0], *out.shape[1:])

    return of_some


def accumulated(network, params, sde: SDE, parameterization: Parameterization, loss: Loss, key, batch, k, unroll):
    """((loss, shares), gradient) by (3); the loop over the parts is unrolled or not."""
    size = batch["x"].shape[0]

    def of_part(params, j, after):
        part = jnp.arange(size) % k == j
        return _shares(every(network, j, k, after), params, sde, parameterization, loss, key, batch, True, part)

    gradient = jax.value_and_grad(of_part, has_aux=True)

    def add(total, j):
        after = sum(jnp.ravel(leaf)[0].astype(jnp.float32) for leaf in jax.tree.leaves(total))
        return jax.tree.map(jnp.add, total, gradient(params, j, after)), None

    shapes = jax.eval_shape(gradient, params, 0, jnp.zeros(()))
    total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    if not unroll:
        return jax.lax.scan(add, total, jnp.arange(k))[0]
    for j in range(k):
        total, _ = add(total, j)
    return total


def make_train_step(
    network,
    sde: SDE,
    parameterization: Parameterization,
    loss: Loss,
    tx: optax.GradientTransformation,
    ema: float = 0.9999,
    augment: Augment | None = None,
    accumulate: int = 1,
    unroll: bool = True,
    skip: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """(state, batch) → (state, metrics): one step of (1).

    `network` is called as (params, x, c_noise, cond=, key=, train=); batch["x"] is [B, ...], batch["label"] the
    condition, if any. `augment`, as `Augmentation`, gives (x, vector) for (keys [B], x): the condition is then the
    vector, or the pair (label, vector).

    With `accumulate` = k the batch is seen in k parts (3), by a loop that is best unrolled on a CPU,
    for the reason that `repeat` gives; the loss of each example must be a function of its own scores. With `skip` a
    step whose loss or gradient is not finite changes nothing but the step's number. Beside loss and grad_norm the
    metrics say where the loss was not finite: `bad_examples`, and the range of t, bad_t_low to bad_t_high, in which
    they, or where there are none the whole batch, lay; NaN for a loss that takes no law of times.
    """

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        batch = batch if augment is None else augmented(augment, key, batch)
        arguments = (state.params, sde, parameterization, loss, key, batch)
        if accumulate > 1:
            (value, shares), grads = accumulated(network, *arguments, accumulate, unroll)
        else:
            (value, shares), grads = jax.value_and_grad(partial(_shares, network), has_aux=True)(*arguments, True)
        metrics = {"loss": value, "grad_norm": global_norm(grads)}
        new = _updated(state, grads, tx, ema)
        if skip:
            good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new = jax.tree.map(partial(jnp.where, good), new, state.replace(step=new.step))
        return new, metrics | _where_bad(shares, times_of(loss, jax.random.split(key)[0], sde, shares.shape[0]))

    return train_step


def augmented(augment: Augment, key, batch: Batch) -> Batch:
    """The batch with x moved, and with what moved it in its condition."""
    x, vector = augment(sample_keys(jax.random.fold_in(key, 2), jnp.arange(batch["x"].shape[0])), batch["x"])
    return batch | {"x": x, "label": (batch["label"], vector) if "label" in batch else vector}


def _updated(state: TrainState, grads: Params, tx: optax.GradientTransformation, ema: float) -> TrainState:
    """(1)."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = ema_rate(state.step, ema)
    average = lambda e, p: (rate * e + (1 - rate) * p).astype(p.dtype)  # noqa: E731
    ema_params = jax.tree.map(average, state.ema_params, params)
    return state.replace(step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state)


def _where_bad(shares: Float[Array, " B"], t: Float[Array, " B"] | None) -> dict[str, Array]:
    bad = ~jnp.isfinite(shares)
    t = jnp.full_like(shares, jnp.nan) if t is None else t
    seen = bad | ~jnp.any(bad)
    low, high = jnp.min(jnp.where(seen, t, jnp.inf)), jnp.max(jnp.where(seen, t, -jnp.inf))
    return {"bad_examples": jnp.sum(bad), "bad_t_low": low, "bad_t_high": high}


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
