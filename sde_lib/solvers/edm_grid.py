"""The noise levels of Karras et al. (2022, arXiv:2206.00364), for every kernel."""

import jax.numpy as jnp

from sde_lib.node import Scalar, number
from sde_lib.sampling import Grid, Times, with_ends
from sde_lib.sde import GaussianSDE, per_time


class EDMGrid(Grid[GaussianSDE]):
    """Noise levels σ/α at (a^{1/ρ} + k/N (b^{1/ρ} − a^{1/ρ}))^ρ, from the largest a to the smallest b.

    Karras et al. 2022, eq. 5, for any α and σ.
    """

    requires = ("log_snr",)
    rho: Scalar = number(7.0, above=0)

    def __call__(self, sde: GaussianSDE, num_steps: int) -> Times:
        ends = jnp.stack([jnp.exp(-0.5 * per_time(sde.log_snr(t), t)) for t in (sde.t_max, self.end(sde))])
        first, last = ends ** (1 / self.rho)
        levels = jnp.linspace(first, last, num_steps + 1) ** self.rho
        return with_ends(sde.time_of_log_snr(-2 * jnp.log(levels)), sde.t_max, self.end(sde))
