"""Multistep exponential integrators: one evaluation per step, and those of earlier steps again.

Let v be the network's part at t, and v_1, v_2, … its values at the earlier times t_1, t_2, …. A step from t to s
integrates the polynomial p through them. In a variable y of time, measured from t, and with weight K,

    ∫ p K dy = v ∫ K dy + Σ_j w_j (v_j − v),   w_j = ∫ ℓ_j K dy,   ℓ_j(y) = (y/y_j) Π_{m≠j} (y − y_m)/(y_j − y_m),   (1)

for steps of any lengths. With λ half the log-SNR, c = 1 + τ² and h = c (λ_s − λ_t), there are two choices of the
extrapolated quantity and the variable:

    x_s = (σ_s/σ_t) e^{−τ²h/c} x_t + α_s ∫₀ʰ x̂₀ e^{y−h} dy + σ_s √(1 − e^{−2τ²h/c}) z,    y = c (λ − λ_t)      (2)
    x_s = (α_s/α_t) x_t + α_s ∫₀^{s−t} ε̂ (dρ/dt) dy,   ρ = σ/α,                            y = time − t       (3)

(2) is derived in `sde_lib.solvers.exponential`. For two nodes its published solvers use

    w_1 = ½ (1 − e^{−h}) h/y_1                                                                             (4)

in place of (1), which differs by O(h²) and preserves the second order.

The first steps have fewer nodes, and so a lower order. The very first is DDIM's, which makes an error of O(h²) once.
Close to t_max, where x̂₀ hardly changes, this error is small; third order holds for the steps that follow. p
extrapolates, so a step should not be much longer, in y, than the one before. (2) is made for steps even in λ
(`LogSNRGrid`). On a grid even in time, its last steps are many times longer than those before them.

Lu et al. 2022: "DPM-Solver++", arXiv:2211.01095. Zhao et al. 2023: "UniPC", arXiv:2302.04867.
Zhang & Chen 2023: "Fast Sampling of Diffusion Models with Exponential Integrator" (DEIS), arXiv:2204.13902.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.node import Scalar, number, static
from sde_lib.noise import normal_like
from sde_lib.parameterization import eps_hat, x0_hat
from sde_lib.sde import Time, expand, time_derivative
from sde_lib.solvers.base import KernelSolver, SolverState
from sde_lib.solvers.exponential import check_order, data_step, noise_std

_NODES, _WEIGHTS = ((a + b) / 2 for a, b in zip(np.polynomial.legendre.leggauss(16), (1, 0), strict=True))


class Past(NamedTuple):
    """The last evaluations and their times, the latest first. An unfilled entry has time inf."""

    values: tuple[Float[Array, "B ..."], ...]
    times: tuple[Time, ...]

    def push(self, value, t) -> "Past":
        return Past((value, *self.values[:-1]), (jnp.asarray(t, float), *self.times[:-1]))


def empty_past(x: Float[Array, "B ..."], length: int) -> Past:
    """A past of `length` unfilled entries."""
    return Past((jnp.zeros_like(x),) * length, (jnp.asarray(jnp.inf, float),) * length)


def nodes(variable, times, t, x):
    """y_j = variable(t_j) − variable(t), and which nodes are used.

    Only nodes farther away than the previous one are used; this also skips unfilled entries.
    """
    t = jnp.asarray(t, float)
    y = [expand(variable(jnp.where(jnp.isfinite(past), past, t)) - variable(t), x) for past in times]
    return y, [far > near for near, far in itertools.pairwise([0.0, *map(jnp.abs, y)])]


def lagrange_weights(end, y, used, density):
    """w_j (1) for each node, 0 for unused ones, by Gauss–Legendre; `density` is K at a fraction of the step."""

    def basis(u, j):
        value = u / jnp.where(used[j], y[j], 1.0)
        for m in range(len(y)):
            if m != j:
                both = used[j] & used[m]
                value = value * jnp.where(both, (u - y[m]) / jnp.where(both, y[j] - y[m], 1.0), 1.0)
        return jnp.where(used[j], value, 0.0)

    def term(fraction, weight):
        mass = weight * end * density(fraction)
        return [mass * basis(fraction * end, j) for j in range(len(y))]

    fractions, weights = (jnp.asarray(a, end.dtype) for a in (_NODES, _WEIGHTS))
    return [jnp.sum(terms, axis=0) for terms in jax.vmap(term)(fractions, weights)]


def data_weights(h, y, used):
    """w_j of (2): (4) where one node is used, and (1) where there are more."""
    alone = sum(one.astype(int) for one in used) == 1
    half = [-0.5 * jnp.expm1(-h) * h / jnp.where(one, node, 1.0) for node, one in zip(y, used, strict=True)]
    exact = lagrange_weights(h, y, used, lambda fraction: jnp.exp((fraction - 1) * h))
    return [jnp.where(alone & one, a, b) for one, a, b in zip(used, half, exact, strict=True)]


def scaled_lambda(sde, tau):
    """c λ, the variable of (2)."""
    return lambda t: 0.5 * (1 + tau**2) * sde.log_snr(t)


def predict(sde, x, t, s, data, past: Past, tau):
    """(2) without its noise."""
    variable = scaled_lambda(sde, tau)
    h = expand(variable(s) - variable(t), x)
    weights = data_weights(h, *nodes(variable, past.times, t, x))
    integral = -jnp.expm1(-h) * data
    for weight, value in zip(weights, past.values, strict=True):
        integral += weight * (value - data)
    return data_step(sde, x, t, s, tau, integral)


class DPMSolverPlusPlus(KernelSolver):
    """(2) with the x̂₀ of the last 2 or 3 steps: DPM-Solver++(2M) and (3M), of order 2 and 3, and their SDE variants.

    Lu et al. 2022, algorithm 2, and with tau = 1 their SDE-DPM-Solver++(2M); other tau as in Xue et al. 2023,
    arXiv:2309.05019. (2M) has the weight (4), (3M) the weights (1). With noise both have weak order 2: x̂₀ ignores part
    of a step's noise in that step, and the slope of the next step corrects for it. Raises ValueError for another order.
    """

    order: int = static(2)
    tau: Scalar = number(0.0, at_least=0)

    def __post_init__(self):
        check_order(self)

    @property
    def nfe(self) -> int:
        return 1

    def init(self, x):
        return SolverState(x, x, empty_past(x, self.order - 1))

    def step(self, keys, state, t, s, sde, score_fn):
        x, past = state.x, state.memory
        data = x0_hat(sde, x, t, score_fn(x, t))
        mean = predict(sde, x, t, s, data, past, self.tau)
        noise = noise_std(sde, x, t, s, self.tau) * normal_like(keys, x)
        return SolverState(mean + noise, mean, past.push(data, t))


class UniPC(KernelSolver):
    """(2) with the x̂₀ of the last 2 or 3 steps; each step is corrected by the first evaluation of the next one.

    Zhao et al. 2023, algorithms 1 and 2, with data prediction and B(h) = e^h − 1 (B_2); the corrected point is not
    evaluated again. The predictor is DPM-Solver++'s. The corrector has one more node, at the step's end, so that the
    order is 3 or 4. x at the end of the grid is not corrected. Corrector and predictor differ only in their weights:

        x_t ← x_t + α_t Σ_j (w_j of the corrector − w_j of the predictor) (v_j − v)

    where w, v and the nodes are those of the step that led to t. Raises ValueError for another order.
    """

    order: int = static(2)

    def __post_init__(self):
        check_order(self)

    @property
    def nfe(self) -> int:
        return 1

    def init(self, x):
        return SolverState(x, x, empty_past(x, self.order))

    def step(self, keys, state, t, s, sde, score_fn):
        past = state.memory
        data = x0_hat(sde, state.x, t, score_fn(state.x, t))
        x = self._correct(sde, state.x, t, data, past)
        x = predict(sde, x, t, s, data, Past(past.values[:-1], past.times[:-1]), 0.0)
        return SolverState(x, x, past.push(data, t))

    def _correct(self, sde, x, t, data, past):
        variable = scaled_lambda(sde, 0.0)
        t = jnp.asarray(t, float)
        start = jnp.where(jnp.isfinite(past.times[0]), past.times[0], t)
        h = expand(variable(t) - variable(start), x)
        y, used = nodes(variable, past.times[1:], start, x)
        predictor = [jnp.zeros_like(h), *data_weights(h, y, used)]
        corrector = data_weights(h, [h, *y], [h > 0, *used])
        for old, new, value in zip(predictor, corrector, (data, *past.values[1:]), strict=True):
            x += expand(sde.alpha(t), x) * (new - old) * (value - past.values[0])
        return x


class DEIS(KernelSolver):
    """(3) with the ε̂ of the last 2 or 3 steps: tAB-DEIS, the Adams–Bashforth rule with exact weights, order 2 or 3.

    Zhang & Chen 2023, section 3, with their polynomials in time and their weights. Their tAB1 and tAB2, named after the
    degree of the polynomial, are orders 2 and 3 here. Raises ValueError for another order.
    """

    order: int = static(3)

    def __post_init__(self):
        check_order(self)

    @property
    def nfe(self) -> int:
        return 1

    def init(self, x):
        return SolverState(x, x, empty_past(x, self.order - 1))

    def step(self, keys, state, t, s, sde, score_fn):
        x, past, t, s = state.x, state.memory, jnp.asarray(t), jnp.asarray(s)
        eps = eps_hat(sde, x, t, score_fn(x, t))

        def level(t):
            return jnp.exp(-0.5 * sde.log_snr(t))

        def density(fraction):
            return expand(time_derivative(level, t + fraction.astype(t.dtype) * (s - t))[1], x)

        y, used = nodes(lambda t: t, past.times, t, x)
        integral = expand(level(s) - level(t), x) * eps
        for weight, value in zip(lagrange_weights(expand(s - t, x), y, used, density), past.values, strict=True):
            integral += weight * (value - eps)
        x = x / expand(sde.alpha_ts(t, s), x) + expand(sde.alpha(s), x) * integral
        return SolverState(x, x, past.push(eps, t))
