"""A score trained under one GaussianSDE, used under another.

At equal signal-to-noise ratio two processes differ only in scale. With t' such that λ'(t') = λ(t), and
c = α'(t')/α(t) = σ'(t')/σ(t),

    x_t under the second process, times c, is distributed as x_{t'} under the first, so
    ∇log p_t(x) = c ∇log p'_{t'}(c x).                                                                  (1)

This is exact where λ(t) is in the first process's range (Kingma et al. 2021, arXiv:2107.00630, section 5.1; Karras et
al. 2022, arXiv:2206.00364, appendix B.2, for α = 1).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.parameterization import ScoreFn
from sde_lib.sde import GaussianSDE, Time, expand


def transfer_score(score_fn: ScoreFn, trained: GaussianSDE, used: GaussianSDE) -> ScoreFn:
    """The score under `used`, by (1), from one under `trained`.

    Where λ is outside the trained process's range, the nearest end of that range is used. `within(trained, used)`
    restricts the second process to the range. Raises TypeError if the coordinates of either process have
    signal-to-noise ratios of their own, since one time cannot match them all.
    """
    for sde in (trained, used):
        if jnp.ndim(sde.log_snr(jnp.asarray(sde.t_max))):
            raise TypeError(
                f"{type(sde).__name__} has a signal-to-noise ratio for each coordinate: one time cannot match them"
            )

    def moved(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        time = trained.time_of_log_snr(used.log_snr(jnp.asarray(t)))
        scale = expand(trained.alpha(time) / used.alpha(t), x)
        return scale * score_fn(scale * x, time)

    return moved


def within(trained: GaussianSDE, used: GaussianSDE) -> GaussianSDE:
    """The process `used`, on the times whose λ is in the range of `trained`. Raises ValueError if there are none."""
    trained_range, used_range = (np.asarray(_range(sde)) for sde in (trained, used))
    low, high = max(trained_range[0], used_range[0]), min(trained_range[1], used_range[1])
    if low >= high:
        known, required = (f"{a:.2f} to {b:.2f}" for a, b in (trained_range, used_range))
        raise ValueError(f"expected log-SNR that overlaps the {known} of training; got {required}")
    last, first = (float(t) for t in _times(used, np.asarray([low, high])))
    return used.replace(t_min=max(first, float(used.t_min)), t_max=min(last, float(used.t_max)))


@jax.jit
def _range(sde: GaussianSDE):
    """λ at t_max and at t_min."""
    return [sde.log_snr(jnp.asarray(t)) for t in (sde.t_max, sde.t_min)]


@jax.jit
def _times(sde: GaussianSDE, log_snr: Float[Array, " N"]):
    return sde.time_of_log_snr(log_snr)
