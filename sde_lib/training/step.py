"""The training step: a pure function of a state and a batch.

    loss(θ) = Σ_i m_i ℓ_i(θ) / Σ_i m_i                                                                      (1)

with ℓ_i from an objective (`sde_lib.training.objective`) and m the batch's mask, 1 for all if there is none. The step
draws one key per sample, and the times in one draw for the batch. All its randomness is a function of (key, step,
example). So a state stores no other randomness, and a run resumes exactly. Nothing here depends on devices: under
`jax.jit` with a batch sharded over a mesh, the sums in (1) are over the whole batch.

A batch that does not fit into memory is processed in k parts, with the same loss and gradient as in one:

    ∇loss(θ) = Σ_j ∇ Σ_{i mod k = j} m_i ℓ_i(θ) / Σ_i m_i                                                   (2)

A part has every k-th example, so each part is spread over as many devices as the batch. Only dropout differs: its masks
are drawn part by part.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from sde_lib.noise import sample_keys
from sde_lib.numbers import AT_LEAST_ONE, Allowed, check_numbers
from sde_lib.training.objective import AppliedNetwork, Batch, Objective, draws
from sde_lib.training.state import Params, TrainState, updated
from sde_lib.training.xla import after, global_norm

Augment = Callable[..., tuple[Array, Array]]
"""(keys [B], x) → (x transformed, a vector [B, d] that describes the transform), as `Augmentation`."""


def make_train_step(
    network,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema: float = 0.9999,
    augment: Augment | None = None,
    accumulate: int = 1,
    unroll: bool = True,
    skip: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """(state, batch) → (state, metrics): one step on (1).

    `network` is called as (params, x, c_noise, cond=, key=, train=); the batch is a dict of arrays [B, ...]. `augment`
    transforms batch["x"]. The network is then conditioned on its vector, or on the pair (label, vector).

    With `accumulate` = k the batch is processed in k parts (2); ValueError if k does not divide it. On a CPU the loop
    is best unrolled, for the reason that `scan_steps` gives. With `skip`, a step whose loss or gradient is not finite
    changes nothing but the step's number.

    The metrics are loss and grad_norm; `bad_examples`, the number of losses that are not finite; and bad_t_low and
    bad_t_high, the range of their times, or of all times if all losses are finite.
    """
    check_numbers("make_train_step", locals(), ema=Allowed(at_least=0, at_most=1), accumulate=AT_LEAST_ONE)

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        batch = batch if augment is None else augmented(augment, key, batch)
        size = batch["x"].shape[0]
        keys, t, dropout_key = draws(objective, key, size)

        def value(params: Params, rows, number):
            key = dropout_key if accumulate == 1 else jax.random.fold_in(dropout_key, number)
            applied = AppliedNetwork(params=objective.network_params(params), key=key, network=network, train=True)
            keys, t, part = rows
            losses = weighted(objective, applied, state.replace(params=params), keys, t, part, total_mask(batch, size))
            return jnp.sum(losses), losses

        gradient = jax.value_and_grad(value, has_aux=True)
        (loss, losses), grads = accumulated(gradient, state.params, (keys, t, batch), accumulate, unroll)
        metrics = {"loss": loss, "grad_norm": global_norm(grads)}
        new = updated(state, grads, tx, ema)
        if skip:
            good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new = jax.tree.map(partial(jnp.where, good), new, state.replace(step=new.step))
        return new, metrics | where_bad(~jnp.isfinite(losses), t)

    return train_step


def make_eval_step(network, objective: Objective):
    """(state, key, batch) → (the loss (1) of state.params without dropout, Σ m_i), for a mean over many batches.

    The batch is a dict of arrays [B, ...], as in training; both results are scalars.
    """

    def eval_step(state: TrainState, key: Key[Array, ""], batch: Batch):
        size = batch["x"].shape[0]
        keys, t, _ = draws(objective, key, size)
        applied = AppliedNetwork(params=objective.network_params(state.params), network=network)
        total = total_mask(batch, size)
        return jnp.sum(weighted(objective, applied, state, keys, t, batch, total)), total

    return eval_step


def weighted(objective: Objective, network: AppliedNetwork, state, keys, t, batch: Batch, total) -> Float[Array, " B"]:
    """The terms of (1), one per row: m_i ℓ_i / total. A row of mask 0 is padding and may hold anything."""
    losses = objective(keys, t, network, batch, state)
    mask = batch.get("mask", jnp.ones_like(losses))
    return jnp.where(mask > 0, losses, 0) * mask / total


def total_mask(batch: Batch, size: int) -> Float[Array, ""] | int:
    """Σ m_i over the whole batch."""
    return jnp.sum(batch["mask"]) if "mask" in batch else size


def accumulated(gradient: Callable, params: Params, rows, k: int, unroll: bool):
    """Σ over k parts (2) of gradient(params, rows of the part, its number) → ((loss, losses [B]), grads)."""
    if k == 1:
        return gradient(params, rows, 0)
    size = jax.tree.leaves(rows)[0].shape[0]
    if size % k:
        raise ValueError(f"a batch of {size} cannot be processed in {k} equal parts")
    parts = jax.tree.map(lambda a: a.reshape(size // k, k, *a.shape[1:]).swapaxes(0, 1), rows)

    def add(total, part):
        number, rows = part
        (loss, losses), grads = gradient(params, rows, number)
        return jax.tree.map(jnp.add, total, (loss, grads)), losses

    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], parts), 0)
    total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0][0], shapes[1]))
    if unroll:
        losses = []
        for j in range(k):
            rows = after(total, jax.tree.map(lambda a, j=j: a[j], parts))
            total, of_part = add(total, (j, rows))
            losses.append(of_part)
        losses = jnp.stack(losses)
    else:
        total, losses = jax.lax.scan(add, total, (jnp.arange(k), parts))
    return (total[0], losses.swapaxes(0, 1).reshape(size)), total[1]


def augmented(augment: Augment, key: Key[Array, ""], batch: Batch) -> Batch:
    """The batch with x transformed, and with the vector of the transform as (part of) its condition."""
    x, vector = augment(sample_keys(jax.random.fold_in(key, 2), jnp.arange(batch["x"].shape[0])), batch["x"])
    return batch | {"x": x, "label": (batch["label"], vector) if "label" in batch else vector}


def where_bad(bad: Bool[Array, " B"], t: Float[Array, "B ..."]) -> dict[str, Array]:
    """The number of losses that are not finite, and the range of their times, or of all times if all are finite."""
    t = t.reshape(t.shape[0], -1)
    shown = bad | ~jnp.any(bad)
    low = jnp.min(jnp.where(shown, jnp.min(t, axis=1), jnp.inf))
    high = jnp.max(jnp.where(shown, jnp.max(t, axis=1), -jnp.inf))
    return {"bad_examples": jnp.sum(bad), "bad_t_low": low, "bad_t_high": high}


def scan_steps(train_step):
    """(state, batches) → (state, metrics): several steps in one call.

    Batches are a dict of arrays [steps, B, ...]; metrics have a leading axis of steps, the state has none. For
    accelerators, where the host is the bottleneck of a small network. XLA's CPU compiler runs the gradients of
    convolutions many times slower inside a loop than outside, so on a CPU a call should be a single step.
    """

    def train_steps(state: TrainState, batches: Batch):
        return jax.lax.scan(train_step, state, batches)

    return train_steps
