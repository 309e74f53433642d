"""Sampling: from the prior at t_max to the data at t_min, over a grid of times.

    t_max = t_0 > t_1 > … > t_N = t_min

A grid is a function of the SDE and of N. A solver steps from t_k to t_{k+1}. `denoise` determines what is returned at
the end. The number and spacing of the steps belong to the sampler, not to the SDE or a checkpoint.
"""

import abc
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from sde_lib.node import PyTreeNode, Scalar, number, static, with_attributes
from sde_lib.noise import fold
from sde_lib.numbers import Allowed, check_number
from sde_lib.parameterization import ScoreFn, x0_hat
from sde_lib.sde import KERNEL, SDE, GaussianSDE, Process, per_time
from sde_lib.solvers.base import Solver, SolverState, advance, require_state
from sde_lib.solvers.predictor_corrector import PredictorCorrector

Times = Float[Array, " N"]
Start = Float[Array, "..."] | Float[np.ndarray, "..."] | None


class Grid(PyTreeNode, abc.ABC, Generic[Process]):
    """(sde, num_steps) → num_steps + 1 times, from t_max down to the later of t_end and t_min.

    `requires` names the methods that an SDE must have.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    t_end: Scalar = number(0.0, at_least=0)

    @abc.abstractmethod
    def __call__(self, sde: Process, num_steps: int) -> Times: ...

    def end(self, sde: SDE):
        """The last time. Raises ValueError if t_end is not before t_max."""
        return sampling_end(self, sde)


def sampling_end(part, sde: SDE) -> Float[Array, ""]:
    """The later of the part's t_end and the process's t_min; ValueError if it is not before t_max."""
    check_number(type(part).__name__, "t_end", part.t_end, Allowed(at_least=0, below="t_max"), {"t_max": sde.t_max})
    return jnp.maximum(jnp.asarray(part.t_end, float), sde.t_min)


class UniformGrid(Grid):
    """t_k linear in k."""

    def __call__(self, sde: SDE, num_steps: int) -> Times:
        return jnp.linspace(sde.t_max, self.end(sde), num_steps + 1)


class PowerGrid(Grid):
    """t_k = (t_max^{1/p} + k/N (t_N^{1/p} − t_max^{1/p}))^p: steps shrink toward the data; quadratic for p = 2."""

    power: Scalar = number(2.0, above=0)

    def __call__(self, sde: SDE, num_steps: int) -> Times:
        ends = jnp.asarray([sde.t_max, self.end(sde)], float) ** (1 / self.power)
        times = jnp.linspace(ends[0], ends[1], num_steps + 1) ** self.power
        return with_ends(times, sde.t_max, self.end(sde))


class LogSNRGrid(Grid[GaussianSDE]):
    """t_k equidistant in λ = log α²/σ² (Lu et al. 2022, arXiv:2206.00927, section 3.4)."""

    requires = ("log_snr",)

    def __call__(self, sde: GaussianSDE, num_steps: int) -> Times:
        first, last = (per_time(sde.log_snr(t), t) for t in (sde.t_max, self.end(sde)))
        times = sde.time_of_log_snr(jnp.linspace(first, last, num_steps + 1))
        return with_ends(times, sde.t_max, self.end(sde))


def with_ends(times: Times, first, last) -> Times:
    """The times [N + 1] with the exact ends `first` and `last`, where a bisection leaves rounding errors."""
    return times.at[0].set(first).at[-1].set(last)


@runtime_checkable
class Denoise(Protocol):
    """The final denoising: (state, t, sde, score_fn) → samples.

    The function may have two attributes: `nfe`, the evaluations it makes, and `requires`, the methods that an SDE must
    have.
    """

    def __call__(self, state: SolverState, t, sde: SDE, score_fn: ScoreFn) -> Float[Array, "B ..."]: ...


def last_mean(state: SolverState, t, sde: SDE, score_fn: ScoreFn) -> Float[Array, "B ..."]:
    """The last step without its noise, as published (Song et al. 2021, appendix G)."""
    return state.mean


@with_attributes(requires=KERNEL, nfe=1)
def tweedie(state: SolverState, t, sde: GaussianSDE, score_fn: ScoreFn) -> Float[Array, "B ..."]:
    """E[x_0 | x_t] by Tweedie's formula, which takes one more evaluation."""
    return x0_hat(sde, state.x, t, score_fn(state.x, t))


def as_is(state: SolverState, t, sde: SDE, score_fn: ScoreFn) -> Float[Array, "B ..."]:
    """The samples [B, ...] of p_t at the grid's end, with their noise; no evaluation of the score."""
    return state.x


FOR_ANY_SDE = {
    "solver": "Euler, Heun, EulerMaruyama, and PredictorCorrector of EulerMaruyama with Langevin(norm='batch')",
    "grid": "UniformGrid and PowerGrid",
    "denoise": "last_mean and as_is",
}


def check_pair(part, sde: SDE, kind: str = "solver") -> None:
    """Raises TypeError if the SDE lacks a method that a sampler's part requires; names the parts for any SDE."""
    missing = [name for name in getattr(part, "requires", ()) if not hasattr(sde, name)]
    if missing:
        name = getattr(part, "__name__", type(part).__name__)
        raise TypeError(
            f"{name} needs {' and '.join(missing)} of the SDE, which {type(sde).__name__} lacks; "
            f"for any SDE there are {FOR_ANY_SDE[kind]}"
        )


def _solve(keys, solver: Solver, sde: SDE, score_fn: ScoreFn, x_T, times: Times, record, recorded) -> tuple:
    """The loop over a grid: (last state, `recorded` after record(k, x_k, recorded) for k = 0 … N)."""
    check_pair(solver, sde)

    def body(carry, interval):
        (state, recorded), (k, t, s) = carry, interval
        state = advance(solver, fold(keys, k), state, t, s, sde, score_fn)
        return (state, record(k + 1, state.x, recorded)), None

    steps, state = jnp.arange(times.shape[0] - 1), solver.init(x_T)
    require_state(f"{type(solver).__name__}.init", state, x_T, getattr(state, "memory", None))
    return jax.lax.scan(body, (state, record(0, x_T, recorded)), (steps, times[:-1], times[1:]))[0]


def sample(
    keys: Key[Array, " B"],
    solver: Solver,
    sde: SDE,
    score_fn: ScoreFn,
    x_T: Float[Array, "B ..."],
    times: Times,
    denoise: Denoise = last_mean,
) -> Float[Array, "B ..."]:
    """Samples at times[-1], from x_T at times[0].

    Row i is a function of x_T[i] and keys[i] only, except with Langevin's batch norm. The size of the compiled program
    is independent of the number of steps. Raises TypeError if the SDE lacks a method that the solver requires.
    """
    state, _ = _solve(keys, solver, sde, score_fn, x_T, times, lambda k, x, recorded: None, None)
    return denoise(state, times[-1], sde, score_fn)


def sample_path(
    keys: Key[Array, " B"],
    solver: Solver,
    sde: SDE,
    score_fn: ScoreFn,
    x_T: Float[Array, "B ..."],
    times: Times,
    keep: Sequence[int] | np.ndarray | None = None,
) -> Float[Array, "K B ..."]:
    """The samples at times[keep] [K, B, ...], to show the trajectory; at every time, x_T first, if `keep` is None.

    `keep` holds increasing indices from 0 to N, else ValueError. Memory is allocated for these samples only.
    """
    n = times.shape[0]
    keep = np.arange(n) if keep is None else np.asarray(keep)
    if keep.ndim != 1 or not len(keep) or keep[0] < 0 or keep[-1] >= n or np.any(np.diff(keep) < 1):
        raise ValueError(f"keep: expected increasing indices of the grid's times, from 0 to {n - 1}; got {keep}")
    places = np.full(n, len(keep))
    places[keep] = np.arange(len(keep))

    def put(k, x, path):
        return path.at[jnp.asarray(places)[k]].set(x, mode="drop")  # len(keep) is out of bounds

    return _solve(keys, solver, sde, score_fn, x_T, times, put, jnp.zeros((len(keep), *x_T.shape), x_T.dtype))[1]


def prior_draw(keys: Key[Array, " B"], sde: SDE, shape: tuple[int, ...], x_T=None) -> Float[Array, "B ..."]:
    """The start of sampling: x_T, or a draw from the prior if it is None. ValueError for another shape of x_T."""
    if x_T is None:
        return sde.prior_sample(fold(keys, 0), shape)
    if jnp.shape(x_T) != (keys.shape[0], *shape):
        raise ValueError(f"x_T: expected {(keys.shape[0], *shape)}, one start per key; got {jnp.shape(x_T)}")
    return jnp.asarray(x_T)


@runtime_checkable
class AnySampler(Protocol):
    """A Sampler, an AdaptiveSDE or a ProbabilityFlowODE: draws samples and counts evaluations; a pytree."""

    def with_nfe(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each [B])."""
        ...


class Sampler(PyTreeNode):
    """A solver, a grid, a number of steps and a final denoising: what a config names.

    Sample i is a function of keys[i]: its prior draw and its noise are two streams folded from that key. Raises
    ValueError for less than one step.
    """

    solver: Solver = PredictorCorrector()
    grid: Grid = PowerGrid()
    num_steps: int = static(1000, at_least=1)
    denoise: Callable = static(last_mean)

    @property
    def coupled(self) -> bool:
        """Whether a sample also depends on the others in its batch: with Langevin's batch norm."""
        return getattr(self.solver, "coupled", False)

    @property
    def nfe(self) -> int:
        """Score evaluations per sample, including the final denoising."""
        return self.num_steps * self.solver.nfe + getattr(self.denoise, "nfe", 0)

    def check(self, sde: SDE) -> None:
        """Raises TypeError if the SDE lacks a method that a part requires; names the part and its alternatives."""
        check_pair(self.solver, sde)
        check_pair(self.grid, sde, "grid")
        self.grid.end(sde)
        check_pair(self.denoise, sde, "denoise")

    def __call__(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """Samples [B, *shape], from x_T or, if it is None, a draw from the prior."""
        self.check(sde)
        x_T = prior_draw(keys, sde, shape, x_T)
        return sample(fold(keys, 1), self.solver, sde, score_fn, x_T, self.grid(sde, self.num_steps), self.denoise)

    def with_nfe(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples [B, *shape], score evaluations of each sample [B]): here `nfe` for all."""
        return self(keys, sde, score_fn, shape, x_T), jnp.full(keys.shape, self.nfe)

    def path(
        self, keys: Key[Array, " B"], sde: SDE, score_fn: ScoreFn, shape: tuple[int, ...], keep=None, x_T: Start = None
    ) -> tuple[Times, Float[Array, "K B ..."]]:
        """(times [K], samples [K, B, *shape]): the trajectory of `__call__`, before its final denoising.

        At all N + 1 times of the grid, or only at those with the indices `keep`.
        """
        times = self.grid(sde, self.num_steps)
        x_T = prior_draw(keys, sde, shape, x_T)
        path = sample_path(fold(keys, 1), self.solver, sde, score_fn, x_T, times, keep)
        return times if keep is None else times[np.asarray(keep)], path
