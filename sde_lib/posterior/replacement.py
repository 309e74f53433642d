"""Replacement and RePaint: after each step of a solver, the known part of x is drawn anew around the measurement.

Let y = A x_0 without noise, where A Aᵀ = c I on the range of A. Then P = AᵀA/c is an orthogonal projection, P x_0 =
Aᵀy/c is known, and after a step to time s

    x ← x − P x + α_s Aᵀy/c + σ_s P z,   z ~ N(0, I).                                                (1)

P is the mask itself for `Mask`; the gray part of each pixel for `ColorMix`; the mean of each box for `BoxDownsample`;
`Decimate`, a `FourierMask` that is symmetric under k → −k, and a `Project` with orthonormal rows fit too. This is the
"decoupling" of Song et al. 2021, appendix I.3 and I.4, for any orthogonal one. In the samples P x is Aᵀy/c exactly, and
the rest has no noise of the last step if the sampler ends with `last_mean`.

Replacement is biased: known and unknown part are drawn apart, so x never agrees with y as a whole. On N(0, [[1, ρ],
[ρ, 1]]) with y = x_1, the unknown x_2 ends, under every process and in the limit of many steps, with

    mean (y/ρ)(1 − √(1 − ρ²)),   variance (1 − ρ²)/(2ρ) log((1 + ρ)/(1 − ρ)),                           (2)

where ρ y and 1 − ρ² are right: for ρ = 0.8 and y = 1, 0.500 and 0.494 instead of 0.800 and 0.360. RePaint repeats each
step: it goes back from s to t by the forward process, and steps again. With 10 repeats the same example ends at 0.769
and 0.371, with 200 at 0.799 and 0.360 (4,000 levels): exact as both numbers grow, at `repeats` times the cost.

With `published`, as score_sde's code does it: (a) the known part is drawn at the level of t, not of s, so that it is
one step noisier than the rest; (b) the mean without the last step's noise is formed from x with that noise, so that the
unknown part is never denoised. Its colorizer also starts from a prior that was masked before it was decoupled, which
leaves the first channel without noise; that start can be passed as x_T.

RePaint: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1, with jumps of one step.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sde_lib.node import static
from sde_lib.noise import fold, normal_like
from sde_lib.posterior.krylov import Linear, Rows
from sde_lib.posterior.observation import Observation, adjoint
from sde_lib.posterior.scores import Method
from sde_lib.sde import KERNEL, GaussianSDE, Time, expand
from sde_lib.solvers.base import Solver, SolverState, advance
from sde_lib.solvers.predictor_corrector import Corrector


class Replacement(Method):
    """The method of `ScoreModel.given` that conditions the sampler instead of the score; repeats > 1 is RePaint."""

    repeats: int = static(1, at_least=1)
    published: bool = static(False)
    has_score = False

    def check(self, observation: Observation) -> None:
        """ValueError if the observation has noise: y is taken as exact."""
        if not isinstance(observation.noise_std, Tracer) and observation.noise_std > 0:
            raise ValueError(
                f"Replacement: expected noise_std = 0, since it takes y as exact, got {observation.noise_std}"
            )

    def condition(self, model, observation: Observation):
        """The model with its solver replaced by `observed`. ValueError if A does not fit, or there is no solver."""
        projection(observation, jnp.zeros((len(observation.y), *model.shape), model.dtype or jnp.float32), check=True)
        solver = getattr(model.sampler, "solver", None)
        if not isinstance(solver, Solver):
            raise ValueError(f"Replacement: expected a sampler with a solver and a grid, got {model.sampler}")
        conditioned = observed(solver, observation, self.repeats, self.published)
        return model.replace(sampler=model.sampler.replace(solver=conditioned), observed=(observation, self))

    def finish(self, observation: Observation, x: Rows) -> Rows:
        """x with P x = Aᵀy/c."""
        return with_known(observation, x)

    def __call__(self, score_fn, sde, observation, x, t):
        return score_fn(x, t)


def observed(solver: Solver, observation: Observation, repeats: int = 1, published: bool = False) -> Solver:
    """The solver with (1) after its step, or after both moves of a predictor–corrector, `repeats` times per step.

    ValueError for repeats of a solver with a memory, which would be of times that are repeated.
    """
    options = {"observation": observation, "published": published}
    parts = {"predictor": Observed, "corrector": ObservedCorrector}
    if all(hasattr(solver, part) for part in parts):
        wrapped = {
            part: make(**{"solver" if part == "predictor" else part: getattr(solver, part)}, **options)
            for part, make in parts.items()
        }
        solver = solver.replace(**wrapped)
        return solver if repeats == 1 else Observed(solver=solver, repeats=repeats, **options)
    return Observed(solver=solver, repeats=repeats, **options)


class Observed(Solver):
    """A solver with (1) after each step, each taken `repeats` times; `mean` has the known part without noise."""

    solver: Solver
    observation: Observation
    repeats: int = static(1, at_least=1)
    published: bool = static(False)

    @property
    def requires(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.solver.requires, *KERNEL)))

    @property
    def coupled(self) -> bool:
        return getattr(self.solver, "coupled", False)

    @property
    def nfe(self) -> int:
        return self.repeats * self.solver.nfe

    def init(self, x):
        state = self.solver.init(x)
        if self.repeats > 1 and state.memory is not None:
            name = type(self.solver).__name__
            raise ValueError(f"Replacement: repeats={self.repeats} does not fit {name}, which stores earlier steps")
        return state

    def step(self, keys, state, t, s, sde, score_fn):
        def once(keys, state):
            state = advance(self.solver, fold(keys, 0), state, t, s, sde, score_fn)
            return replaced(fold(keys, 1), state, t if self.published else s, sde, self.observation, self.published)

        if self.repeats == 1:
            return once(keys, state)

        def there_and_back(r, state):
            own = fold(keys, r)
            x = once(own, state).x
            alpha_ts, sigma_ts = (expand(c, x) for c in sde.transition(t, s))
            return self.solver.init(alpha_ts * x + sigma_ts * normal_like(fold(own, 2), x))

        state = jax.lax.fori_loop(0, self.repeats - 1, there_and_back, state)
        return once(fold(keys, self.repeats - 1), state)


class ObservedCorrector(Corrector):
    """A corrector with (1) after it, at its own time."""

    corrector: Corrector
    observation: Observation
    published: bool = static(False)

    @property
    def requires(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.corrector.requires, *KERNEL)))

    @property
    def coupled(self) -> bool:
        return getattr(self.corrector, "coupled", False)

    @property
    def nfe(self) -> int:
        return self.corrector.nfe

    def correct(self, keys, state, time, t, s, sde, score_fn):
        state = self.corrector.correct(fold(keys, 0), state, time, t, s, sde, score_fn)
        return replaced(fold(keys, 1), state, time, sde, self.observation, self.published)


def replaced(
    keys, state: SolverState, t: Time, sde: GaussianSDE, observation: Observation, published: bool = False
) -> SolverState:
    """(1) at time t; in `mean` the known part has no noise."""
    P, known = projection(observation, state.x)
    alpha, sigma = (expand(c, state.x) for c in (sde.alpha(t), sde.sigma(t)))
    x = state.x + P(sigma * normal_like(keys, state.x) - state.x) + alpha * known
    before = state.x if published else state.mean
    level = alpha if published else 1.0
    return SolverState(x, before - P(before) + level * known, state.memory)


def with_known(observation: Observation, x: Rows) -> Rows:
    """x − P x + Aᵀy/c."""
    P, known = projection(observation, x)
    return x - P(x) + known


def projection(observation: Observation, x: Rows, check: bool = False) -> tuple[Linear, Rows]:
    """(w ↦ P w, Aᵀy/c), for arrays like x. With `check`, ValueError unless A Aᵀ = c I on A's range, by a probe."""
    A, At = observation.operator, adjoint(observation.operator, x)
    probe = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), x.dtype)
    w = At(A(probe))
    c = jnp.sum(w * w) / jnp.maximum(jnp.sum(probe * w), jnp.finfo(x.dtype).tiny)
    if check:
        error = float(jnp.linalg.norm(At(A(w)) - c * w) / jnp.maximum(jnp.linalg.norm(c * w), 1e-30))
        if error > 1e-3:
            raise ValueError(
                f"Replacement: expected an operator with A Aᵀ = c I (a mask, gray, boxes, decimation), but "
                f"{type(A).__name__} is off by {error:.1g}; use a posterior score, such as MMPS()"
            )
    y = jnp.broadcast_to(jnp.asarray(observation.y, x.dtype), A(x).shape)
    return lambda w: At(A(w)) / c, At(y) / c
