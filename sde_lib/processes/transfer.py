"""Changing horses: a score learned under one GaussianSDE, used under another.

At equal signal-to-noise ratio two processes see the same data through the same noise, at another scale: with t' such
that λ'(t') = λ(t), and c = α'(t')/α(t) = σ'(t')/σ(t),

    x_t under the second process, times c, is distributed as x_{t'} under the first, so
    ∇log p_t(x) = c ∇log p'_{t'}(c x).                                                                  (1)

Exact where λ(t) lies in the first process's range (Kingma et al. 2021, arXiv:2107.00630, section 5.1; Karras et al.
2022, arXiv:2206.00364, appendix B.2, say it for α = 1).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.parameterization import ScoreFn
from sde_lib.sde import GaussianSDE, Time, expand


def transfer_score(score_fn: ScoreFn, trained: GaussianSDE, used: GaussianSDE) -> ScoreFn:
    """The score under `used`, by (1), from one under `trained`.

    Beyond the trained process's range of λ its nearest end stands in; `within(trained, used)` cuts the second process
    to the range of the first. Raises TypeError where the coordinates of either process have signal-to-noise ratios of
    their own, since one time cannot match them all.
    """
    for sde in (trained, used):
        if jnp.ndim(sde.log_snr(jnp.asarray(sde.t_max))):
            raise TypeError(
                f"{type(sde).__name__} has a signal-to-noise ratio for each coordinate: it cannot be matched"
            )

    def moved(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        time = trained.time_of_log_snr(used.log_snr(jnp.asarray(t)))
        scale = expand(trained.alpha(time) / used.alpha(t), x)
        return scale * score_fn(scale * x, time)

    return moved


def within(trained: GaussianSDE, used: GaussianSDE) -> GaussianSDE:
    """The process `used` on the times alone whose λ the trained one has seen. ValueError where there are none."""
    seen, wanted = (np.asarray(_range(sde)) for sde in (trained, used))
    low, high = max(seen[0], wanted[0]), min(seen[1], wanted[1])
    if low >= high:
        ranges = [f"{a:.2f} to {b:.2f}" for a, b in (wanted, seen)]
        raise ValueError(f"log-SNR from {ranges[0]} is wanted; {ranges[1]} was trained")
    last, first = (float(t) for t in _times(used, np.asarray([low, high])))
    return used.replace(t_min=max(first, float(used.t_min)), t_max=min(last, float(used.t_max)))


@jax.jit
def _range(sde: GaussianSDE):
    """λ at t_max and at t_min."""
    return [sde.log_snr(jnp.asarray(t)) for t in (sde.t_max, sde.t_min)]


@jax.jit
def _times(sde: GaussianSDE, log_snr: Float[Array, " N"]):
    return sde.time_of_log_snr(log_snr)
