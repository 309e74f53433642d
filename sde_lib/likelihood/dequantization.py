"""Variational dequantization: a learned distribution of a value within its bin.

For any density q(u | x) on [−½, ½]^d,

    log P(x) ≥ E_q [log p(x + Δ u) − log q(u | x)] + d log Δ,                                             (1)

with equality where q is the distribution of p within the bin (Ho et al. 2019, "Flow++", arXiv:1902.00275, section 3.1).
With q uniform it is equation (1) of `sde_lib.likelihood.bits`. Here each coordinate has a distribution

    u = sigmoid(m + s ℓ) − ½,   m = shift + slope · x,   s = exp(log_scale),   ℓ logistic                (2)
    log q = Σ [log f(ℓ) − log f(m + s ℓ) − log s],   f(ℓ) = sigmoid(ℓ) sigmoid(−ℓ)                       (3)

which is uniform if all parameters are 0. So after training the bound is at least as tight, up to noise. The tilt m
follows the density's slope within a bin, which helps where bins are wide compared with the density's scale. The density
of a network trained on uniformly dequantized data is nearly flat within a bin: there is almost nothing to gain.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from sde_lib.node import Leaf, PyTreeNode, number
from sde_lib.noise import sample_keys
from sde_lib.numbers import AT_LEAST_ONE, POSITIVE, check_numbers


class Dequantizer(PyTreeNode):
    """The distribution (2) of u in [−½, ½], in units of the bin, given x.

    `shift`, `slope` and `log_scale` have the event's shape or broadcast to it.
    """

    shift: Leaf = number(0.0)
    slope: Leaf = number(0.0)
    log_scale: Leaf = number(0.0)

    def __call__(self, keys: Key[Array, " B"], x: Float[Array, "B ..."]) -> tuple[Float[Array, "B ..."], Array]:
        """A draw of (u [B, ...], log q(u | x) [B]), differentiable in x and the parameters.

        Row i is a function of keys[i] and x[i].
        """
        shift, slope, log_scale = (
            jnp.broadcast_to(jnp.asarray(leaf, x.dtype), x.shape[1:])[None]
            for leaf in (self.shift, self.slope, self.log_scale)
        )
        logistic = jax.vmap(lambda key: jax.random.logistic(key, x.shape[1:], x.dtype))(keys)
        y = shift + slope * x + jnp.exp(log_scale) * logistic
        log_q = _log_logistic(logistic) - _log_logistic(y) - log_scale
        return jax.nn.sigmoid(y) - 0.5, jnp.sum(log_q, axis=tuple(range(1, x.ndim)))


def _log_logistic(value):
    return jax.nn.log_sigmoid(value) + jax.nn.log_sigmoid(-value)


def fit_dequantizer(
    key: Key[Array, ""],
    log_prob: Callable[[Key[Array, " B"], Float[Array, "B ..."]], Float[Array, " B"]],
    x: Float[Array, "N ..."],
    bin_width,
    *,
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 0.03,
) -> Dequantizer:
    """The q of (2) that maximizes (1) over discrete data x in model space, one distribution per coordinate, by Adam.

    `log_prob` and `bin_width` are as in `bits_per_dim`; each step differentiates `log_prob` in its second argument.
    """
    numbers = {"steps": AT_LEAST_ONE, "batch_size": AT_LEAST_ONE, "learning_rate": POSITIVE, "bin_width": POSITIVE}
    check_numbers("fit_dequantizer", locals(), **numbers)
    zeros = jnp.zeros(x.shape[1:], x.dtype)
    q, adam = Dequantizer(shift=zeros, slope=zeros, log_scale=zeros), optax.adam(learning_rate)
    width = jnp.broadcast_to(jnp.asarray(bin_width, x.dtype), x.shape[1:])[None]

    def loss(q, keys, x):
        u, log_q = q(keys, x)
        return jnp.mean(log_q - log_prob(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), x + width * u))

    @jax.jit
    def step(q, state, key):
        rows, draws = jax.random.split(key)
        chosen = jax.random.randint(rows, (batch_size,), 0, len(x))
        slope = jax.grad(loss)(q, sample_keys(draws, jnp.arange(batch_size)), x[chosen])
        updates, state = adam.update(slope, state)
        return optax.apply_updates(q, updates), state

    state = adam.init(q)  # pyright: ignore[reportArgumentType]  # optax declares no pytrees but containers of arrays
    for k in range(steps):
        q, state = step(q, state, jax.random.fold_in(key, k))
    return q
