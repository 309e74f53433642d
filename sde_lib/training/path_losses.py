"""Losses for processes without a kernel: their scores learned from simulated paths (`sde_lib.processes.paths`).

The minimizer of both losses is the score of the simulated marginal.

Transitions. Let the last of the N steps be Euler–Maruyama's. Given y, the point before it, x_t is normal, and

    L = E ½ ‖ g√h s(x_t, t) + z ‖²,     x_t = y + h f(y, t − h) + g √h z,                               (1)

is denoising score matching on p(x_t | y) with the weight g² h. The minimizer is ∇log p_t of the discretized path (De
Bortoli et al. 2021, arXiv:2106.01357, section 3; Huang et al. 2021, arXiv:2106.02808), with an error of O(h²). It takes
one evaluation of the network and no derivative in x, in any dimension. But the step is N times shorter than the path,
so the noise z is N times larger against the score than in the loss with a known kernel. Use it in high dimension and
for large networks.

Sliced. With v of independent signs,

    L = E w(t) [ v·∇_x (v·s(x_t, t)) + ½ ‖s(x_t, t)‖² ],                                              (2)

is score matching (Hyvärinen 2005, theorem 1) with an estimated trace (Song et al. 2019, arXiv:1905.07088, eq. 8). With
the exact trace it is implicit score matching. Its only noise is the data's, so it learns faster in few dimensions. Each
step costs a directional derivative of the network, and the variance of the trace grows with the dimension. Use the
exact trace in one to about four dimensions, the sliced one up to some tens.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.losses import half_sum
from sde_lib.noise import fold, normal_like
from sde_lib.parameterization import ScoreFn
from sde_lib.processes.coefficients import accumulated_noise_std
from sde_lib.processes.paths import simulate
from sde_lib.sde import SDE, expand


def transition_loss(
    keys: Key[Array, " B"],
    score_fn: ScoreFn,
    sde: SDE,
    x0: Float[Array, "B ..."],
    t: Float[Array, " B"],
    *,
    num_steps: int = 32,
    reduce: Callable[[Float[Array, "B ..."]], Float[Array, " B"]] = half_sum,
) -> Float[Array, " B"]:
    """Denoising score matching on the last of `num_steps` transitions (1), one value per sample."""
    t, path_keys, noise_keys = t.astype(x0.dtype), fold(keys, 0), fold(keys, 1)
    h = t / num_steps
    y = simulate(path_keys, sde, x0, t - h, num_steps)
    z = normal_like(noise_keys, x0)
    std = expand(sde.diffusion(t - 0.5 * h) * jnp.sqrt(h), y)
    x = y + expand(h, y) * sde.drift(y, t - h) + std * z
    return reduce((std * score_fn(x, t) + z) ** 2)


def sliced_loss(
    keys: Key[Array, " B"],
    score_fn: ScoreFn,
    sde: SDE,
    x0: Float[Array, "B ..."],
    t: Float[Array, " B"],
    *,
    num_steps: int = 32,
    exact_trace: bool = False,
) -> Float[Array, " B"]:
    """Sliced score matching (2), or implicit score matching with the exact trace; one value per sample.

    The weight is w = ∫₀ᵗ g², approximately the variance of the noise while t is small. The value may be negative: it is
    the Fisher divergence minus a constant.
    """
    t, path_keys, probe_keys = t.astype(x0.dtype), fold(keys, 0), fold(keys, 1)
    x = simulate(path_keys, sde, x0, t, num_steps)
    weight = expand(accumulated_noise_std(sde, t), x) ** 2
    over_event = tuple(range(1, x.ndim))
    along = lambda v: jax.jvp(lambda x: score_fn(x, t), (x,), (v,))  # noqa: E731
    if exact_trace:
        directions = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
        score, slopes = jax.vmap(lambda v: along(jnp.broadcast_to(v, x.shape)), out_axes=(None, 0))(directions)
        divergence = jnp.sum(directions * slopes, axis=0)
    else:
        v = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(probe_keys)
        score, slope = along(v)
        divergence = v * slope
    return jnp.sum(weight * (divergence + 0.5 * score**2), axis=over_event)
