"""DAPS: draw x_0 given x_t and y by Langevin dynamics, add noise anew, at each level of a grid.

With the kernel p(x_t | x_0), here from x_0 = x at t_min: α_ts and σ_ts of `GaussianSDE.transition(t, t_min)`,

    x_0 ~ p(x_0 | x_t) p(y | x_0) up to a constant,   x_s ~ N(α_s x_0, σ_s²)                        (1)

where the last x_0 is the sample. If x_t has the law p_t(· | y) and the draw of x_0 is exact, x_s has the law
p_s(· | y). The draw takes `inner_steps` steps of size h, from Tweedie's x̂_0, of

    x_0 ← x_0 + h [∇log p(y | x_0) + G(x_0)] + √(2h) z,   h = step_size/(α²/σ² + precision)         (2)
    "exact"       G = (α/σ²) (x_t − α x_0) + s(x_0, t_min)                                           (3)
    "gaussian"    G = (α²/σ²) (x̂_0 − x_0)                                                           (4)

(3) is the gradient of log p(x_0 | x_t): (1) is exact as inner_steps → ∞ and step_size → 0. For a Gaussian posterior of
precision λ, (2) has the variance 1/(λ (1 − hλ/2)). (4), as published, replaces p(x_0 | x_t) by N(x̂_0, σ²/α²). For
Gaussian data its variance is too large: it ignores the prior's. Its samples are *biased*, whatever the steps. The start
is the prior, which replaces p(x_T | y).

Zhang et al. 2024, "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing", arXiv:2407.01521,
proposition 1. Their x̂_0 is by a few steps of the flow, where ours is Tweedie's.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.noise import fold, normal_like
from sde_lib.parameterization import ScoreFn, x0_hat
from sde_lib.particles.twisted import LogLikelihood
from sde_lib.sampling import Grid, Start, UniformGrid, check_pair, prior_draw
from sde_lib.sde import KERNEL, GaussianSDE, expand


class DAPS(PyTreeNode):
    """(1) over a grid of `num_steps` intervals. Sample i is a function of keys[i].

    log_likelihood: x_0 [B, ...] → log p(y | x_0) [B], entry i a function of x_0[i] only. precision: the largest
    eigenvalue of −∇²[log p(y | x_0) + log p(x_0)], or a bound of it, with which (2) is stable for step_size < 2.
    A sample costs num_steps · (1 + inner_steps) score evaluations with "exact", num_steps with "gaussian". Raises
    ValueError for another `inner`.
    """

    requires = KERNEL

    log_likelihood: LogLikelihood = static()
    precision: Scalar = number(above=0)
    inner: Literal["exact", "gaussian"] = static("exact")
    inner_steps: int = static(100, at_least=1)
    step_size: Scalar = number(0.05, above=0)
    grid: Grid = UniformGrid()
    num_steps: int = static(50, at_least=1)

    def __post_init__(self):
        if self.inner not in ("exact", "gaussian"):
            raise ValueError(f"DAPS: expected inner 'exact' or 'gaussian', got {self.inner!r}")

    @property
    def coupled(self) -> bool:
        """False: each sample is a function of its own key."""
        return False

    @property
    def nfe(self) -> int:
        """Score evaluations per sample."""
        return self.num_steps * (1 + (self.inner_steps if self.inner == "exact" else 0))

    def check(self, sde: GaussianSDE) -> None:
        """Raises TypeError if the SDE lacks a method that is required."""
        check_pair(self, sde)
        check_pair(self.grid, sde, "grid")

    def __call__(
        self, keys: Key[Array, " B"], sde: GaussianSDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape], from x_T or, if it is None, a draw from the prior."""
        self.check(sde)
        x, keys = prior_draw(keys, sde, shape, x_T), fold(keys, 1)
        times = self.grid(sde, self.num_steps)

        def body(carry, interval):
            (x, _), (k, t, s) = carry, interval
            own = fold(keys, k)
            x0 = self._inner(fold(own, 0), sde, score_fn, x, t)
            mean, std = (expand(c, x) for c in sde.transition(s, sde.t_min))
            return (mean * x0 + std * normal_like(fold(own, 1), x), x0), None

        intervals = jnp.arange(self.num_steps), times[:-1], times[1:]
        return jax.lax.scan(body, (x, x), intervals)[0][1]

    def with_nfe(
        self, keys: Key[Array, " B"], sde: GaussianSDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B])."""
        return self(keys, sde, score_fn, shape, x_T), jnp.full(keys.shape, self.nfe)

    def _inner(self, keys, sde, score_fn, x, t) -> Float[Array, "B ..."]:
        """(2)."""
        alpha, sigma = (expand(c, x) for c in sde.transition(t, sde.t_min))
        known = (alpha / sigma) ** 2
        center, t_min = x0_hat(sde, x, t, score_fn(x, t)), jnp.asarray(sde.t_min, x.dtype)
        h = self.step_size / (known + self.precision)

        def prior_gradient(x0):
            if self.inner == "gaussian":
                return known * (center - x0)
            return alpha / sigma**2 * (x - alpha * x0) + score_fn(x0, t_min)

        def body(i, x0):
            gradient = prior_gradient(x0) + jax.grad(lambda x0: jnp.sum(self.log_likelihood(x0)))(x0)
            return x0 + h * gradient + jnp.sqrt(2 * h) * normal_like(fold(keys, i), x0)

        return jax.lax.fori_loop(0, self.inner_steps, body, center)
