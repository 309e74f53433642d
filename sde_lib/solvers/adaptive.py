"""Samplers that choose their steps: each sample its own, by an estimate of the error that a step makes.

The reverse SDE, dx = b(x, t) dt + g(t) dw̄ with b = f − g² score, goes from t to s = t − h by two rules with one
increment of noise Δw ~ N(0, h I),

    x'  = x − h b(x, t) + g(t) Δw                         Euler–Maruyama,                                   (1)
    x̃   = x − h b(x', s) + g(s) Δw,
    x'' = ½ (x' + x̃)                                      stochastic improved Euler,                        (2)
    E   = √mean_j ((x'_j − x''_j)/δ_j)²,     δ = max(ε_abs, ε_rel max(|x'|, |x'_prev|)),                    (3)
    x, t ← x'', s   where E ≤ 1;     h ← θ h E^{−r}, at most the time that is left,                         (4)

with θ = r = 0.9 and x'_prev the x' of the last step accepted (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080,
algorithm 1), and h rounded to the nearest power of 2^¼ (`step_size`): w is too rough to forgive rounding.

What becomes of Δw when its step is rejected is a choice:

    brownian_path    Δw = w(t) − w(s) of one path a sample, drawn by Brownian bridges wherever it is asked for (Gaines &
                     Lyons 1997, SIAM J. Appl. Math. 57(5)): the error falls with the tolerance.
    redrawn          a step tried again draws anew, as published. What is accepted is no longer normal: noise that
                     enlarges |x'| enlarges δ, and is accepted more often. A bias that the tolerance does not remove:
                     means off by up to 0.3 standard deviations in 4 dimensions, by nothing to be seen in 256, where
                     E hardly varies.

The probability flow, dx/dt = f − ½ g² score, is solved by an explicit Runge–Kutta pair of diffrax.

How many evaluations a sample takes is known only afterwards: `nfe` is None, `with_evaluations` tells.

Under `jit` a failure cannot raise. A sample that has not arrived after `max_steps` steps, or whose steps have shrunk
to nothing (a score that is not finite), is NaN, and that sample alone: what is unfinished is not taken for a sample.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import Leaf, PyTreeNode, Scalar, static
from sde_lib.noise import fold, normal_like
from sde_lib.parameterization import ScoreFn
from sde_lib.sampling import Start, as_is, check_pair, prior_draw
from sde_lib.sde import SDE, expand
from sde_lib.solvers.base import SolverState
from sde_lib.solvers.integrate import Adaptive, full_precision
from sde_lib.solvers.ode import flow
from sde_lib.solvers.step_size import StepSize, where_row

STEP_SIZE = StepSize(safety=0.9, exponent=0.9)
"""θ and r of (4)."""
DEPTH = 23
"""A Brownian path is resolved to 2^−DEPTH of its length: as finely as float32 tells times near 1 apart."""


def redrawn(keys: Key[Array, " B"], k, t, s, x: Float[Array, "B ..."], span) -> Float[Array, "B ..."]:
    """Δw of the k-th try, independent of all others."""
    return expand(jnp.sqrt(t - s), x) * normal_like(fold(keys, k), x)


def brownian_path(keys: Key[Array, " B"], k, t, s, x: Float[Array, "B ..."], span) -> Float[Array, "B ..."]:
    """Δw = w(t) − w(s) of the sample's own path over span = (t_end, t_max).

    Costs 2 DEPTH normal draws of x's shape: little beside a network, much beside a closed form.
    """
    length = span[1] - span[0]
    w_t, w_s = (_brownian(keys, (u - span[0]) / length, x) for u in (t, s))
    return jnp.sqrt(length) * (w_t - w_s)


def _brownian(keys, r, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """w(r) of a path on [0, 1] for each r [B], by halving the interval that r is in: given the ends of one of length l,

    w(middle) ~ N(½ (w(low) + w(high)), ¼ l), with a key for each interval; linear in the last, of length 2^−DEPTH.
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
    """The samples' states between steps: x'_prev, t, h and the steps tried; k counts the loop."""

    state: SolverState
    previous: Leaf
    t: Leaf
    h: Leaf
    steps: Leaf
    k: Leaf


class AdaptiveSDE(PyTreeNode):
    """The reverse SDE by (1) to (4), for any drift and diffusion, from t_max to the later of t_end and t_min.

    Each step tried costs two evaluations of the score, with t of shape [B]. Sample i is a function of keys[i] alone,
    up to rounding, whatever the batch and the devices; the batch runs until its slowest sample has arrived. `h_init`
    is the first step, in units of t_max − t_end. The published ε_abs is one gray level, 0.0078 for images in [−1, 1],
    with ε_rel from 0.01 to 0.5; their end is `tweedie`, for a GaussianSDE. `noise` is `brownian_path`, or, as
    published and cheaper, `redrawn`.

    Returns NaN for a sample that has not arrived after `max_steps` steps, rejected ones included.
    """

    rel_tol: Scalar = 0.02
    abs_tol: Scalar = 0.0078
    h_init: Scalar = 0.01
    t_end: Scalar = 0.0
    noise: Callable = static(brownian_path)
    max_steps: int = static(10_000)
    denoise: Callable = static(as_is)
    nfe: ClassVar[None] = None

    def check(self, sde: SDE) -> None:
        """TypeError where the SDE lacks what the final denoising needs."""
        check_pair(self.denoise, sde, "denoise")

    def __call__(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape], from x_T or else a draw of the prior."""
        return self.with_evaluations(keys, sde, score_fn, shape, x_T)[0]

    def with_evaluations(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B]): its own, without those made while it waited."""
        x_T = prior_draw(keys, sde, shape, x_T)
        span = tuple(jnp.asarray(u, x_T.dtype) for u in (_end(self, sde), sde.t_max))
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
        """One step tried, from t to s; samples with s = t, which have arrived or failed, stay as they are."""
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

    Sample i is a function of keys[i] alone, up to rounding, which may move a step and with it the sample within the
    error; the batch runs until its slowest sample has arrived. The default tolerance is tight so that such a move is
    one of about 10⁻⁵ at most: wholly other steps led up to 5·10⁻⁴ apart at a tolerance of 10⁻⁵, and 1.3·10⁻⁵ at 10⁻⁶,
    for half as many evaluations again (64 samples of two mixtures, exact scores, five processes).
    Half-way between two narrow modes, where the flow parts, the last digit of x_T itself may move a sample by 10⁻⁵.
    A score that is coarser than float32 wants a looser tolerance.
    """

    ode: Adaptive = dataclasses.field(default_factory=lambda: Adaptive(rtol=1e-6, atol=1e-6))
    t_end: Scalar = 0.0
    denoise: Callable = static(as_is)
    nfe: ClassVar[None] = None

    def check(self, sde: SDE) -> None:
        """TypeError where the SDE lacks what the final denoising needs."""
        check_pair(self.denoise, sde, "denoise")

    def __call__(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape], from x_T or else a draw of the prior."""
        return self.with_evaluations(keys, sde, score_fn, shape, x_T)[0]

    def with_evaluations(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B]): its own, without those made while it waited."""
        x_T = prior_draw(keys, sde, shape, x_T)
        t_end = _end(self, sde)

        x, evaluations = self.ode.between(lambda x, t: flow(x, t, sde, score_fn), x_T, sde.t_max, t_end)
        samples = self.denoise(SolverState(x, x), t_end, sde, full_precision(score_fn))
        return samples, evaluations + getattr(self.denoise, "nfe", 0)


def _end(sampler, sde: SDE):
    return jnp.maximum(jnp.asarray(sampler.t_end, float), sde.t_min)
