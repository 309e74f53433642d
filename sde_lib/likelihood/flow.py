"""Likelihoods, encoding and decoding by the probability-flow ODE.

Along a path of the flow dx/dt = F(x, t) = f(x, t) − ½ g(t)² s(x, t) the log density changes by −∇·F. So

    log p_{t_min}(x) = log π(x_T) + ∫ ∇·F(x_t, t) dt,     t from t_min to t_max, x at t_min,              (1)

with π the prior and x_T the end of the path (Song et al. 2021, eq. 13 and 39). The number is exact for the density of
the ODE that the score s defines, whether or not s is the score of the data. Three things keep it from log p_0(x):

Solver. Steps are finite. The same integral with coarser steps tells how much they matter.

Probes. ∇·F is estimated from products of its Jacobian with random vectors (`sde_lib.divergence`), the same ones along
the path, so that the estimate is smooth in t.

Truncation. p_{t_min} is not p_0. With a kernel N(α x_0, σ² I), the density of x_0 + (σ/α) ε at x is that of x_t at α x
times α^d, and as it solves the heat equation ∂q/∂v = ½ Δq in v = σ²/α², to first order in v at t = t_min

    log p_0(x) ≈ log p_t(α x) + d log α − ½ σ² [∇·s + ‖s‖²](α x, t).                                       (2)

The approximation is good where σ/α is small against the scales of the data. It says nothing of data that have no
density, such as integers: those want bits per dimension (`sde_lib.bits`).

What is not estimated is that π is not p at t_max: the density is the model's, whose prior π is.

Song et al. 2021: "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from sde_lib.likelihood.divergence import Divergence, Hutchinson
from sde_lib.node import PyTreeNode, Scalar, static
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import SDE, GaussianSDE, expand
from sde_lib.solvers.integrate import Adaptive, Fixed, full_precision


class LogProb(NamedTuple):
    """A log density and what is known of its error; `solver`, `probes` and `truncation` have no gradient.

    value         nats
    z             where x ends at t_max, [B, ...]
    evaluations   of the field with its divergence: a score and the products with its Jacobian each
    solver        the error that the difference to a coarser solution foretells: Adaptive, ten times the tolerance, if
                  it is proportional to that; Fixed, half of the steps, if it is of order 4
    probes        the standard error over the probes: 0 for Exact, NaN where there is one probe alone
    truncation    the first-order estimate of log p_0(x) − value; where `to_data` has it in the value, the last term of
                  (2), next to which what remains is of second order. NaN without a kernel.

    Inside `jit`, what is not read is not computed: `solver` costs one more solution at the coarser steps (some 0.6 and
    0.5 of the first), `truncation` one more evaluation. `evaluations` does not count them.
    """

    value: Float[Array, " B"]
    z: Float[Array, "B ..."]
    evaluations: Integer[Array, " B"]
    solver: Float[Array, " B"]
    probes: Float[Array, " B"]
    truncation: Float[Array, " B"]


class Likelihood(PyTreeNode):
    """A divergence and a solver, put together: log densities, and the map between data and prior.

    Row i is a function of keys[i], x[i] and cond[i] alone, up to rounding, where a row of the score is one of its own
    row. The score is evaluated on the whole batch, with a time for each row, as score_fn(x, t) or, with `cond`, a
    pytree of leaves [B, ...], as score_fn(x, t, cond).

    With `to_data` the value is (2), log p_0(x); without it is (1), log p_{t_min}(x).
    """

    divergence: Divergence = Hutchinson()
    solver: Adaptive | Fixed = dataclasses.field(default_factory=lambda: Adaptive())
    to_data: bool = static(False)

    def log_prob(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, x: Float[Array, "B ..."], cond: Any = None
    ) -> LogProb:
        """log p(x) in nats, with its error. TypeError for `to_data` where the SDE has no kernel."""
        if self.to_data and not hasattr(sde, "alpha"):
            raise TypeError(f"to_data needs alpha and sigma of the SDE, which {type(sde).__name__} lacks")

        return self._log_prob(keys, sde, _given(score_fn, cond), x)

    def encode(self, sde: SDE, score_fn: ScoreFn, x: Float[Array, "B ..."], cond: Any = None) -> Float[Array, "B ..."]:
        """x at t_min carried to t_max."""
        return self._transport(sde, score_fn, x, cond, to_noise=True)

    def decode(
        self, sde: SDE, score_fn: ScoreFn, z: Float[Array, "B ..."], temperature: Scalar = 1.0, cond: Any = None
    ) -> Float[Array, "B ..."]:
        """temperature · z at t_max carried to t_min: below 1 draws come from the middle of a prior around 0."""
        return self._transport(sde, score_fn, temperature * z, cond, to_noise=False)

    def _transport(self, sde, score_fn, x, cond, to_noise):
        return self.solver(_flow(sde, _given(score_fn, cond)), x, sde, to_noise)[0]

    def _log_prob(self, keys, sde, score, x) -> LogProb:
        probes, flow, dimension = self.divergence.draw(keys, x), _flow(sde, score), x[0].size

        def field(state, t):
            drift, divergence = self.divergence(probes, lambda x: flow(x, t), state[0])
            return drift, divergence / dimension

        def solve(solver):
            estimates = jax.eval_shape(lambda x: self.divergence(probes, lambda x: x, x)[1], x)
            start = jnp.exp(_log_alpha(sde, x)) * x if self.to_data else x
            (z, integral), evaluations = solver(field, (start, jnp.zeros(estimates.shape, x.dtype)), sde, True)
            return z, sde.prior_logp(z)[:, None] + dimension * integral, evaluations

        z, values, evaluations = solve(self.solver)
        coarser, share = self.solver.coarser()
        solver = share * jnp.abs(_mean(values) - _mean(solve(coarser)[1]))
        correction, truncation = self._truncation(sde, score, probes, x)
        errors = jax.lax.stop_gradient((solver, self.divergence.standard_error(values), truncation))
        return LogProb(_mean(values) + correction, z, evaluations, *errors)

    def _truncation(self, sde, score, probes, x):
        """(what `to_data` adds to the value, `truncation`), each [B]."""
        if not hasattr(sde, "alpha"):
            return jnp.zeros_like(x, shape=len(x)), jnp.full_like(x, jnp.nan, shape=len(x))
        log_alpha = jnp.broadcast_to(_log_alpha(sde, x), x.shape)
        heat, slope = _heat(sde, score, self.divergence, probes, jnp.exp(log_alpha) * x if self.to_data else x)
        if self.to_data:
            return _sum(log_alpha) + heat, heat
        return jnp.zeros_like(heat), _sum(jnp.expm1(log_alpha) * x * slope + log_alpha) + heat


def _given(score_fn, cond):
    """The score, (x, t) → ∇log p_t(x)."""
    return score_fn if cond is None else lambda x, t: score_fn(x, t, cond)


def _flow(sde, score):
    """F(x, t)."""
    return lambda x, t: sde.flow_drift(x, t, score(x, t))


def _log_alpha(sde: GaussianSDE, x):
    """log α(t_min), to broadcast against x."""
    return jnp.log(expand(sde.alpha(sde.t_min), x))


def _heat(sde: GaussianSDE, score, divergence, probes, x):
    """(−½ Σ σ² (∂s + s²), s) at (x, t_min): the last term of (2), and the score."""
    t = jnp.full(x.shape[:1], sde.t_min, x.dtype)
    variance = expand(sde.sigma(t), x) ** 2
    scaled, trace = full_precision(divergence)(probes, lambda x: variance * score(x, t), x)
    slope = scaled / variance
    return -0.5 * (_mean(trace) + _sum(scaled * slope)), slope


def _mean(estimates: Float[Array, "B m"]) -> Float[Array, " B"]:
    return jnp.mean(estimates, axis=1)


def _sum(values: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def slerp(
    sde: GaussianSDE, z0: Float[Array, "B ..."], z1: Float[Array, "B ..."], weights: Float[Array, " W"]
) -> Float[Array, "W B ..."]:
    """The way from z0 to z1 over the prior's spheres, at `weights` in [0, 1], for `decode`.

    In units of the prior's standard deviation the direction moves along the great circle (Shoemake 1985), and the norm,
    which is nearly √d for every draw of the prior, linearly; a straight line would go through the far smaller norms
    that no draw has. Where z0 and z1 point the same way the line is straight; opposite ones have no great circle.
    """
    std = expand(sde.prior_std(), z0)

    def one(u0, u1, weight):
        n0, n1 = jnp.linalg.norm(u0), jnp.linalg.norm(u1)
        e0, e1 = u0 / n0, u1 / n1
        # The angle by its half, accurate for directions that are nearly alike.
        angle = 2 * jnp.arctan2(jnp.linalg.norm(e1 - e0), jnp.linalg.norm(e1 + e0))
        share = lambda w: w * jnp.sinc(w * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)  # noqa: E731
        return (n0 + weight * (n1 - n0)) * (share(1 - weight) * e0 + share(weight) * e1)

    rows = jax.vmap(one, (0, 0, None))
    u0, u1 = ((z / std).reshape(len(z), -1) for z in (z0, z1))
    path = jax.vmap(rows, (None, None, 0))(u0, u1, weights.astype(z0.dtype))
    return std[None] * path.reshape(len(weights), *z0.shape) if jnp.ndim(std) else std * path.reshape(-1, *z0.shape)
