"""Likelihoods, encoding and decoding by the probability-flow ODE.

Along a path of the flow dx/dt = F(x, t) = f(x, t) − ½ g(t)² s(x, t) the log density changes by −∇·F. So

    log p_{t_min}(x) = log π(x_T) + ∫ ∇·F(x_t, t) dt,     t from t_min to t_max, x at t_min,              (1)

with π the prior and x_T the end of the path (Song et al. 2021, eq. 13 and 39). This is exact for the density of the ODE
that the score s defines, whether or not s is the score of the data. Three errors separate the result from log p_0(x):

Solver. Steps are finite. The same integral with coarser steps gives an estimate of this error.

Probes. ∇·F is estimated from products of its Jacobian with random vectors (`sde_lib.likelihood.divergence`). They are
the same along the path, so that the estimate is smooth in t.

Truncation. p_{t_min} is not p_0. With a kernel N(α x_0, σ² I), the density of x_0 + (σ/α) ε at x is that of x_t at α x
times α^d. It solves the heat equation ∂q/∂v = ½ Δq in v = σ²/α². So, to first order in v at t = t_min,

    log p_0(x) ≈ log p_t(α x) + d log α − ½ σ² [∇·s + ‖s‖²](α x, t).                                       (2)

The approximation is good where σ/α is small compared with the scales of the data. It does not apply to data without a
density, such as integers; these have bits per dimension (`sde_lib.likelihood.bits`).

The difference between π and p at t_max is not estimated: the density is the model's, whose prior is π.

Song et al. 2021: "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from sde_lib.likelihood.divergence import Divergence, Hutchinson
from sde_lib.node import PyTreeNode, Scalar, static
from sde_lib.numbers import Allowed, check_number
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import SDE, GaussianSDE, expand
from sde_lib.solvers.integrate import Adaptive, Fixed, full_precision


class LogProb(NamedTuple):
    """A log density and estimates of its error; `solver`, `probes` and `truncation` have no gradient.

        value         nats
        z             the end of the path at t_max, [B, ...]
        nfe           evaluations of the field with its divergence: each is a score and the products with its Jacobian
        solver        the error, estimated from the difference to a coarser solution: for Adaptive, at ten times the
                      tolerance, if proportional to it; for Fixed, with half of the steps, if of order 4
        probes        the standard error over the probes: 0 for Exact, inf (no bound is known) for a single probe
        truncation    the first-order estimate of log p_0(x) − value, inf (unknown) without a kernel. With `to_data`
                      the value contains it: this is then the last term of (2), and the rest is of second order

    Inside `jit`, what is not read is not computed. `solver` costs one more solution at the coarser steps (about 0.6 and
    0.5 of the first), `truncation` one more evaluation. `nfe` does not count them.
    """

    value: Float[Array, " B"]
    z: Float[Array, "B ..."]
    nfe: Integer[Array, " B"]
    solver: Float[Array, " B"]
    probes: Float[Array, " B"]
    truncation: Float[Array, " B"]

    @property
    def evaluations(self) -> Integer[Array, " B"]:
        """`nfe`, under its earlier name."""
        return self.nfe


class Likelihood(PyTreeNode):
    """A divergence and a solver: log densities, and the map between data and prior.

    Row i is a function of keys[i], x[i] and cond[i] only, up to rounding, if a row of the score is one of its own row.
    The score is evaluated on the whole batch, with a time for each row. It is called as score_fn(x, t) or, with `cond`,
    a pytree of leaves [B, ...], as score_fn(x, t, cond).

    With `to_data` the value is (2), log p_0(x); without it is (1), log p_{t_min}(x).
    """

    divergence: Divergence = Hutchinson()
    solver: Adaptive | Fixed = dataclasses.field(default_factory=lambda: Adaptive())
    to_data: bool = static(False)

    def log_prob(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, x: Float[Array, "B ..."], cond: Any = None
    ) -> LogProb:
        """log p(x) in nats, with its error. Raises TypeError for `to_data` if the SDE has no kernel."""
        if self.to_data and not hasattr(sde, "alpha"):
            raise TypeError(f"to_data needs alpha and sigma of the SDE, which {type(sde).__name__} lacks")

        return self._log_prob(keys, sde, _given(score_fn, cond), x)

    def encode(self, sde: SDE, score_fn: ScoreFn, x: Float[Array, "B ..."], cond: Any = None) -> Float[Array, "B ..."]:
        """x at t_min, transported to t_max."""
        return self._transport(sde, score_fn, x, cond, to_noise=True)

    def decode(
        self, sde: SDE, score_fn: ScoreFn, z: Float[Array, "B ..."], temperature: Scalar = 1.0, cond: Any = None
    ) -> Float[Array, "B ..."]:
        """temperature · z at t_max, transported to t_min.

        A temperature below 1 moves draws from a prior around 0 toward its center.
        """
        check_number("decode", "temperature", temperature, Allowed(at_least=0))
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
            (z, integral), nfe = solver(field, (start, jnp.zeros(estimates.shape, x.dtype)), sde, True)
            return z, sde.prior_logp(z)[:, None] + dimension * integral, nfe

        z, values, nfe = solve(self.solver)
        coarser, share = self.solver.coarser()
        solver = share * jnp.abs(_mean(values) - _mean(solve(coarser)[1]))
        correction, truncation = self._truncation(sde, score, probes, x)
        errors = jax.lax.stop_gradient((solver, self.divergence.standard_error(values), truncation))
        return LogProb(_mean(values) + correction, z, nfe, *errors)

    def _truncation(self, sde, score, probes, x):
        """(what `to_data` adds to the value, `truncation`), each [B]."""
        if not hasattr(sde, "alpha"):
            return jnp.zeros_like(x, shape=len(x)), jnp.full_like(x, jnp.inf, shape=len(x))
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
    """log α(t_min), broadcasting against x."""
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
    """The path from z0 to z1 along the prior's spheres, at `weights` in [0, 1], for `decode`.

    In units of the prior's standard deviation, the direction moves along the great circle (Shoemake 1985). The norm,
    which is nearly √d for every draw from the prior, moves linearly. A straight line would pass through far smaller
    norms, which no draw has. The path is straight where z0 and z1 have the same direction; opposite ones have no great
    circle.
    """
    std = expand(sde.prior_std(), z0)

    def one(u0, u1, weight):
        n0, n1 = jnp.linalg.norm(u0), jnp.linalg.norm(u1)
        e0, e1 = u0 / n0, u1 / n1
        # Computed from its half, the angle is accurate for nearly equal directions.
        angle = 2 * jnp.arctan2(jnp.linalg.norm(e1 - e0), jnp.linalg.norm(e1 + e0))
        share = lambda w: w * jnp.sinc(w * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)  # noqa: E731
        return (n0 + weight * (n1 - n0)) * (share(1 - weight) * e0 + share(weight) * e1)

    rows = jax.vmap(one, (0, 0, None))
    u0, u1 = ((z / std).reshape(len(z), -1) for z in (z0, z1))
    path = jax.vmap(rows, (None, None, 0))(u0, u1, weights.astype(z0.dtype))
    return std[None] * path.reshape(len(weights), *z0.shape) if jnp.ndim(std) else std * path.reshape(-1, *z0.shape)
