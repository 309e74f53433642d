"""Samplers with adaptive steps: each sample has its own, by an estimate of the error of a step.

The reverse SDE, dx = b(x, t) dt + g(t) dw̄ with b = f − g² score, goes from t to s = t − h by two rules with one
increment of noise Δw ~ N(0, h I),

    x'  = x − h b(x, t) + g(t) Δw                         Euler–Maruyama,                                   (1)
    x̃   = x − h b(x', s) + g(s) Δw,
    x'' = ½ (x' + x̃)                                      stochastic improved Euler,                        (2)
    E   = √mean_j ((x'_j − x''_j)/δ_j)²,     δ = max(ε_abs, ε_rel max(|x'|, |x'_prev|)),                    (3)
    x, t ← x'', s   where E ≤ 1;     h ← θ h E^{−r}, at most the time that is left,                         (4)

with θ = r = 0.9 and x'_prev the x' of the last accepted step (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080,
algorithm 1). h is rounded to the nearest power of 2^¼ (`step_size`), since w is rough: another t by rounding would give
another Δw.

There are two choices of Δw after a rejected step:

    brownian_path    Δw = w(t) − w(s) of one path per sample, drawn by Brownian bridges at the required times (Gaines &
                     Lyons 1997, SIAM J. Appl. Math. 57(5)): the error falls with the tolerance.
    redrawn          a new draw for each try, as published. Accepted noise is then not normal: noise that enlarges |x'|
                     enlarges δ, and is accepted more often. A smaller tolerance does not remove this bias. Means were
                     off by up to 0.3 standard deviations in 4 dimensions, and not visibly in 256, where E hardly
                     varies.

The probability flow, dx/dt = f − ½ g² score, is solved by an explicit Runge–Kutta pair of diffrax.

The number of evaluations per sample is known only afterwards: `nfe` is None, and `with_nfe` returns it.

Under `jit` a failure cannot raise. A sample is NaN if it has not arrived after `max_steps` steps, or if its steps have
shrunk to nothing, as with a score that is not finite. The other samples are not affected.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import Leaf, PyTreeNode, Scalar, number, static
from sde_lib.noise import fold, normal_like
from sde_lib.parameterization import ScoreFn
from sde_lib.sampling import Start, as_is, check_pair, prior_draw, sampling_end
from sde_lib.sde import SDE, expand
from sde_lib.solvers.base import SolverState
from sde_lib.solvers.integrate import Adaptive, full_precision
from sde_lib.solvers.ode import flow
from sde_lib.solvers.step_size import StepSize, where_row

STEP_SIZE = StepSize(safety=0.9, exponent=0.9)
"""θ and r of (4)."""
DEPTH = 23
"""A Brownian path is resolved to 2^−DEPTH of its length, which is float32's resolution of times near 1."""


def redrawn(keys: Key[Array, " B"], k, t, s, x: Float[Array, "B ..."], span) -> Float[Array, "B ..."]:
    """Δw of the k-th try, independent of all others."""
    return expand(jnp.sqrt(t - s), x) * normal_like(fold(keys, k), x)


def brownian_path(keys: Key[Array, " B"], k, t, s, x: Float[Array, "B ..."], span) -> Float[Array, "B ..."]:
    """Δw = w(t) − w(s) of the sample's own path over span = (t_end, t_max).

    Costs 2 DEPTH normal draws of x's shape: little compared with a network, much compared with a closed form.
    """
    length = span[1] - span[0]
    w_t, w_s = (_brownian(keys, (u - span[0]) / length, x) for u in (t, s))
    return jnp.sqrt(length) * (w_t - w_s)


def _brownian(keys, r, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """w(r) of a path on [0, 1] for each r [B], by halving the interval that contains r.

    Given the ends of an interval of length l, w(middle) ~ N(½ (w(low) + w(high)), ¼ l), with one key per interval. w is
    linear in the last interval, of length 2^−DEPTH.
    """

    def halve(level, node):
        keys, low, w_low, w_high = node
        length = 0.5 ** level.astype(x.dtype)
        w_middle = 0.5 * (w_low + w_high + jnp.sqrt(length) * normal_like(fold(keys, 2), x))
        right = r >= low + 0.5 * length
        keys = jax.vmap(jax.random.fold_in)(keys, right.astype(int))
        low = jnp.where(right, low + 0.5 * length, low)
        return keys, low, where_row(right, w_middle, w_low), where_row(right, w_high, w_middle)

    start = fold(keys, 1), jnp.zeros_like(r), jnp.zeros_like(x), normal_like(fold(keys, 0), x)
    _, low, w_low, w_high = jax.lax.fori_loop(0, DEPTH, halve, start)
    return w_low + expand((r - low) * 2.0**DEPTH, x) * (w_high - w_low)


class _Path(PyTreeNode):
    """The samples' states between steps: x'_prev, t, h and the steps tried; k counts the loop's iterations."""

    state: SolverState
    previous: Leaf
    t: Leaf
    h: Leaf
    steps: Leaf
    k: Leaf


class AdaptiveSDE(PyTreeNode):
    """The reverse SDE by (1) to (4), for any drift and diffusion, from t_max to the later of t_end and t_min.

    Each step tried costs two evaluations of the score, with t of shape [B]. Sample i is a function of keys[i] only, up
    to rounding, for any batch and devices. The batch runs until its slowest sample has arrived. `h_init` is the first
    step, as a fraction of t_max − t_end. The published ε_abs is one gray level, 0.0078 for images in [−1, 1], with
    ε_rel from 0.01 to 0.5; the published final denoising is `tweedie`, for a GaussianSDE. `noise` is `brownian_path`,
    or `redrawn`, which is as published and cheaper.

    A sample that has not arrived after `max_steps` steps, including rejected ones, is NaN.
    """

    rel_tol: Scalar = number(0.02, at_least=0)
    abs_tol: Scalar = number(0.0078, above=0)
    h_init: Scalar = number(0.01, above=0)
    t_end: Scalar = number(0.0, at_least=0)
    noise: Callable = static(brownian_path)
    max_steps: int = static(10_000, at_least=1)
    denoise: Callable = static(as_is)
    nfe: ClassVar[None] = None

    def check(self, sde: SDE) -> None:
        """TypeError if the SDE lacks a method that the final denoising requires, ValueError if t_end is not in time."""
        check_pair(self.denoise, sde, "denoise")
        sampling_end(self, sde)

    def __call__(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape], from x_T or, if it is None, a draw from the prior."""
        return self.with_nfe(keys, sde, score_fn, shape, x_T)[0]

    def with_nfe(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B]), without those made while it waited for others."""
        x_T = prior_draw(keys, sde, shape, x_T)
        span = tuple(jnp.asarray(u, x_T.dtype) for u in (sampling_end(self, sde), sde.t_max))
        t, keys = jnp.full(x_T.shape[:1], span[1]), fold(keys, 1)
        h, none = self.h_init * (t - span[0]), jnp.zeros(t.shape, int)
        path = _Path(state=SolverState(x_T, x_T), previous=x_T, t=t, h=h, steps=none, k=jnp.asarray(0))

        def target(path):
            return jnp.maximum(path.t - path.h, span[0])

        def more(path):
            return jnp.any(target(path) < path.t) & (path.k < self.max_steps)

        def body(path):
            s = target(path)
            return self._try(path, s, self.noise(keys, path.k, path.t, s, x_T, span), sde, score_fn)

        path = jax.lax.while_loop(more, body, path)
        samples = where_row(path.t == span[0], self.denoise(path.state, span[0], sde, score_fn), jnp.nan)
        return samples, 2 * path.steps + getattr(self.denoise, "nfe", 0)

    def _try(self, path: _Path, s, dw, sde, score_fn) -> _Path:
        """Tries one step, from t to s. Samples with s = t, which have arrived or failed, are unchanged."""
        x, t, h = path.state.x, path.t, path.t - s

        def move(y, u):
            return -expand(h, x) * sde.reverse_drift(y, u, score_fn(y, u)), expand(sde.diffusion(u), x) * dw

        drift, noise = move(x, t)
        euler = x + drift + noise
        drift_s, noise_s = move(euler, s)
        mean = x + 0.5 * (drift + drift_s)
        improved = mean + 0.5 * (noise + noise_s)

        scale = jnp.maximum(self.abs_tol, self.rel_tol * jnp.maximum(jnp.abs(euler), jnp.abs(path.previous)))
        error = jnp.sqrt(jnp.mean(((euler - improved) / scale) ** 2, axis=tuple(range(1, x.ndim))))
        moving = s < t
        accepted = moving & (error <= 1)
        return _Path(
            state=SolverState(where_row(accepted, improved, x), where_row(accepted, mean, path.state.mean)),
            previous=where_row(accepted, euler, path.previous),
            t=jnp.where(accepted, s, t),
            h=jnp.where(moving, STEP_SIZE.next(h, error, accepted), path.h),
            steps=path.steps + moving.astype(path.steps.dtype),
            k=path.k + 1,
        )


class ProbabilityFlowODE(PyTreeNode):
    """The probability-flow ODE with each sample's own steps (`Adaptive`), from t_max to the later of t_end and t_min.

    Sample i is a function of keys[i] only, up to rounding. Rounding may change a step, and with it the sample within
    the error. The batch runs until its slowest sample has arrived. The default tolerance is small enough to keep such a
    change to about 10⁻⁵. Entirely different steps gave samples up to 5·10⁻⁴ apart at a tolerance of 10⁻⁵, and 1.3·10⁻⁵
    at 10⁻⁶, for half as many evaluations again (64 samples of two mixtures, exact scores, five processes). Half-way
    between two narrow modes, where the flow divides, the last digit of x_T itself may change a sample by 10⁻⁵. A score
    of less than float32's accuracy requires a larger tolerance.
    """

    ode: Adaptive = dataclasses.field(default_factory=lambda: Adaptive(rtol=1e-6, atol=1e-6))
    t_end: Scalar = number(0.0, at_least=0)
    denoise: Callable = static(as_is)
    nfe: ClassVar[None] = None

    def check(self, sde: SDE) -> None:
        """TypeError if the SDE lacks a method that the final denoising requires, ValueError if t_end is not in time."""
        check_pair(self.denoise, sde, "denoise")
        sampling_end(self, sde)

    def __call__(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape], from x_T or, if it is None, a draw from the prior."""
        return self.with_nfe(keys, sde, score_fn, shape, x_T)[0]

    def with_nfe(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B]), without those made while it waited for others."""
        x_T = prior_draw(keys, sde, shape, x_T)
        t_end = sampling_end(self, sde)

        x, nfe = self.ode.between(lambda x, t: flow(x, t, sde, score_fn), x_T, sde.t_max, t_end)
        samples = self.denoise(SolverState(x, x), t_end, sde, full_precision(score_fn))
        return samples, nfe + getattr(self.denoise, "nfe", 0)
