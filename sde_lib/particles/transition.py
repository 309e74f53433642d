"""The transition density of a solver's step, N(mean, std²), derived from the step itself.

A step of `EulerMaruyama`, `ReverseDiffusion`, `Ancestral` or `DDIM(eta > 0)` is

    x_s = mean(x_t, score) + std z,   z standard normal.                                            (1)

The mean is `SolverState.mean`. The std depends on the times only, so a step from x = 0 with score 0, which costs no
evaluation, gives it: std = Σ z (x_s − mean) / Σ z², over a few draws z. So each formula exists once, in its solver.

For two means with the same std, d = (m_1 − m_2)/std and z = (x − m_1)/std,

    log N(x; m_2, std²) − log N(x; m_1, std²) = −Σ (d z + ½ d²).                                     (2)
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from sde_lib.noise import normal_like, sample_keys
from sde_lib.sde import SDE, Time
from sde_lib.solvers.base import Solver

DRAWS = 4
FOR_PARTICLES = "EulerMaruyama, ReverseDiffusion, Ancestral and DDIM(eta > 0)"


class GaussianStep(NamedTuple):
    """mean [B, ...] and std [1, ...] of x_s given x_t (1)."""

    mean: Float[Array, "B ..."]
    std: Float[Array, "1 ..."]


class TransitionDensity(Protocol):
    """(solver, x [B, ...], t [], s [], sde, score [B, ...]) → the density of the step, given the score at (x, t)."""

    def __call__(
        self, solver: Solver, x: Float[Array, "B ..."], t: Time, s: Time, sde: SDE, score: Float[Array, "B ..."]
    ) -> GaussianStep: ...


def transition(
    solver: Solver, x: Float[Array, "B ..."], t: Time, s: Time, sde: SDE, score: Float[Array, "B ..."]
) -> GaussianStep:
    """(1): mean and std of the solver's step from t to s, both scalars, at x with this score.

    It evaluates no score. Valid for the solvers that `check_transition` accepts.
    """
    keys = _probe_keys(0, x.shape[0])
    mean = solver.step(keys, solver.init(x), t, s, sde, lambda x, t: score).mean
    return GaussianStep(mean, _std(solver, x[:1], t, s, sde))


def log_ratio(x: Float[Array, "B ..."], target: GaussianStep, proposal: GaussianStep) -> Float[Array, " B"]:
    """(2): log of the target's density over the proposal's at x, each row summed; both have the proposal's std."""
    d, z = (proposal.mean - target.mean) / proposal.std, (x - proposal.mean) / proposal.std
    return -jnp.sum(d * z + 0.5 * d**2, axis=tuple(range(1, x.ndim)))


def check_transition(solver: Solver, sde: SDE, shape: tuple[int, ...], t, s) -> None:
    """Raises TypeError unless the solver's step is (1), with std > 0 and noise `normal_like(keys, x)`.

    It must evaluate the score once and have no memory. The noise is checked at concrete times; under jit it is not.
    """
    name, x = type(solver).__name__, jnp.zeros((1, *shape))
    wrong = None
    if getattr(solver, "coupled", False) or solver.nfe != 1 or solver.init(x).memory is not None:
        wrong = "its step couples samples, has a memory, or evaluates the score more than once"
    else:
        stds = [_std(solver, x, t, s, sde, seed) for seed in range(2)]
        if not any(isinstance(std, Tracer) for std in stds):
            first, second = (np.asarray(std) for std in stds)
            if not np.all(first > 0):
                wrong = "its step has no noise"
            elif not np.allclose(first, second, rtol=1e-3, atol=0):
                wrong = "its noise is not a standard deviation times normal_like(keys, x)"
    if wrong:
        raise TypeError(f"{name} has no Gaussian transition density: {wrong}; for particles there are {FOR_PARTICLES}")


def _std(solver, x, t, s, sde, seed: int = 0) -> Float[Array, "1 ..."]:
    keys, zero = _probe_keys(seed, DRAWS), jnp.zeros((DRAWS, *x.shape[1:]), x.dtype)
    z = normal_like(keys, zero)
    state = solver.step(keys, solver.init(zero), t, s, sde, lambda x, t: jnp.zeros_like(x))
    return jnp.sum(z * (state.x - state.mean), axis=0, keepdims=True) / jnp.sum(z**2, axis=0, keepdims=True)


def _probe_keys(seed: int, n: int):
    return sample_keys(jax.random.key(seed), jnp.arange(n))
