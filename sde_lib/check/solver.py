"""Does a solver converge, at which order, and to the right distribution? `check_solver` measures it on exact scores.

A solver without noise follows the probability flow. Its order is that of the end point (strong) on a mixture of two
normals in the plane, whose flow a Runge–Kutta method of order 4 follows in 2,048 steps:

    e_N = √mean_i |x_N,i − x(t_min)_i|²,     order = log₂ (e_N/e_2N).                                    (1)

The order of a solver with noise is that of mean and variance (weak), on a normal around 0 in one dimension. There a
step is usually linear, and so is the end: x_N = a x_T + Σ_k c_k z_k. a follows from starts with the same noise. c_k
follows from two runs that differ in the keys of step k only; all other steps have the same keys. With u_N = (a s, v_N)
and

    v_N = a² s² + Σ_k c_k²,   s² = Var[x_T],     order = log₂ |u_N − u_2N|/|u_2N − u_4N|.                 (2)

Σ_k c_k² has a relative error from the draws, but it is one factor for all N, which drops out of (2). Where the end is
not linear, mean and variance are those of 2¹⁷ samples, compared with the exact ones.

The distribution at the end, with the solver's own noise, is compared with the exact mean and standard deviation in each
coordinate, on the normal and on the mixture, for 2¹⁴ samples.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.exact import GaussianMixture
from sde_lib.noise import fold, sample_keys
from sde_lib.processes.closed_form import VP
from sde_lib.sampling import Grid, UniformGrid, check_pair
from sde_lib.sde import SDE, GaussianSDE, has_kernel
from sde_lib.solvers.base import Solver, advance
from sde_lib.solvers.integrate import Fixed
from sde_lib.solvers.ode import flow

STEPS = (32, 64, 128)
LAW = 0.05  # what mean and deviation may be off, in deviations, in addition to four standard errors
ORDER = 0.25  # what the order may be off
EXACT = 1e-11  # errors below are rounding
CENTERED = (((0.0,),), ((0.5,),), (1.0,))
NORMAL = (((0.7,),), ((0.5,),), (1.0,))
MODES = (((-1.0, 0.5), (0.8, -0.3)), ((0.5, 0.4), (0.4, 0.6)), (0.4, 0.6))
POINTS, SAMPLES, DRAWS, MANY = 64, 2**14, 512, 2**17


class Law(NamedTuple):
    """Errors of mean and deviation at the end, in exact deviations, and what is allowed for both."""

    name: str
    mean: float
    deviation: float
    allowed: float

    @property
    def ok(self) -> bool:
        return abs(self.mean) <= self.allowed and abs(self.deviation) <= self.allowed

    def __str__(self) -> str:
        word = "ok" if self.ok else "FAIL"
        return (
            f"{word:4}  {self.name}: mean {self.mean:+.3f}, deviation {self.deviation:+.3f} exact deviations off, "
            f"allowed {self.allowed:.3f}"
        )


class SolverReport(NamedTuple):
    """What `check_solver` measured.

    `errors` are (1), or the differences of (2), by the number of steps; `order` is nan if it could not be resolved, and
    inf if the solver is exact. `nfe` are the evaluations counted in one step.
    """

    title: str
    noisy: bool
    errors: dict[int, float]
    order: float
    laws: tuple[Law, ...]
    nfe: int
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = "weak, of mean and variance" if self.noisy else "strong, of the end point"
        errors = ", ".join(f"{n} steps: {error:.2e}" for n, error in self.errors.items())
        lines = [
            self.title,
            f"order {self.order:.2f} ({kind}); {errors}",
            f"{self.nfe} evaluations of the score per step",
        ]
        return "\n".join([*lines, *map(str, self.laws), *(f"FAIL  {line}" for line in self.failed)])


class SolverCheckError(ValueError):
    """The solver misses its order or the distribution: the message says which, and `report` has all numbers."""

    def __init__(self, report: SolverReport):
        self.report = report
        super().__init__("; ".join([f"{report.title}: {report.failed[0]}", *report.failed[1:]]))


def check_solver(
    solver: Solver,
    *,
    order: float | int | None = None,
    sde: SDE | None = None,
    grid: Grid | None = None,
    seed: int = 0,
    verbose: bool = True,
) -> SolverReport:
    """Measures the order of a solver in the number of steps, and whether it ends at the right distribution.

    With `order` the measured one must be within 0.25 of it. The process is VP from t = 1 to 0.15, or `sde`, whose
    coordinates must be alike, and whose score must be smooth between t_min and t_max. There are 32, 64 and 128 steps,
    of `grid`, by default even in t. A multistep solver starts as in sampling, without a past. It takes half a minute on
    a CPU, in float64.

    Prints the report if `verbose`. Raises SolverCheckError, with what was expected and what was measured, for another
    order; for a mean or a deviation of the end that is off by more than 0.05 deviations and four standard errors; and
    for an `nfe` that is not the number of evaluations in a step. Raises TypeError if the SDE lacks a method that the
    solver requires, and ValueError if it has no kernel or its coordinates differ.
    """
    sde = VP(t_min=0.15) if sde is None else sde
    check_pair(solver, sde)
    sde = _alike(sde)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        case = _Case(_in_float64(solver), _in_float64(sde), grid or UniformGrid(), seed)
        nfe = case.count_evaluations()
        noisy = case.is_noisy()
        errors, measured = case.weak_order() if noisy else case.strong_order()
        laws = tuple(case.law(name, data) for name, data in (("normal", NORMAL), ("mixture", MODES)))
    report = SolverReport(f"{solver!r} on {sde!r}", noisy, errors, measured, laws, nfe)
    report = report._replace(failed=tuple(_failures(report, order, solver.nfe)))
    if verbose:
        print(report)
    if report.failed:
        raise SolverCheckError(report)
    return report


def _failures(report: SolverReport, order: float | int | None, nfe: int) -> Iterator[str]:
    if report.nfe != nfe:
        yield f"expected {nfe} evaluations of the score per step, as its `nfe` says, got {report.nfe}"
    for law in report.laws:
        if not law.ok:
            yield (
                f"expected the exact mean and deviation of the {law.name} at the end, within {law.allowed:.3f} "
                f"deviations, got {law.mean:+.3g} and {law.deviation:+.3g} off"
            )
    if order is not None and report.order != math.inf and not abs(report.order - order) <= ORDER:
        kind = "weak order" if report.noisy else "order"
        yield f"expected {kind} {order:g}, within {ORDER}, got {report.order:.2f}"


def _alike(sde: SDE) -> GaussianSDE:
    """The process. ValueError if it has no kernel, or coefficients for each coordinate."""
    if not has_kernel(sde) or jnp.ndim(sde.sigma(jnp.asarray(sde.t_max))):
        raise ValueError(
            f"check_solver requires a process with a kernel, whose coordinates are alike; got {type(sde).__name__}"
        )
    return sde


def _in_float64(tree: Any) -> Any:
    def cast(leaf):
        floating = isinstance(leaf, np.ndarray | np.generic | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return np.asarray(leaf, np.float64) if floating else leaf

    return jax.tree.map(cast, tree)


def _mixture(data: tuple) -> GaussianMixture:
    means, stds, weights = (jnp.asarray(part) for part in data)
    return GaussianMixture(means=means, stds=stds, weights=weights)


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _end(solver, sde, data, keys, others, at, x, times, steps, folded):
    """x after `steps` steps. Step k has `keys`, or `others` in the rows where `at` is k; folded by k if `folded`."""

    def body(k, state):
        now = jnp.where(at == k, others, keys)
        now = jnp.where(folded, fold(now, k), now)
        return advance(solver, now, state, times[k], times[k + 1], sde, data.score_fn(sde))

    return jax.lax.fori_loop(0, steps, body, solver.init(x)).x


class _Case(NamedTuple):
    """The solver on exact scores; everything is in float64."""

    solver: Solver
    sde: GaussianSDE
    grid: Grid
    seed: int

    def keys(self, count: int, stream: int = 0):
        return sample_keys(jax.random.fold_in(jax.random.key(self.seed), stream), jnp.arange(count))

    def run(self, data: GaussianMixture, x, steps: int, keys=None, others=None, at=None, folded: bool = True):
        """x after `steps` steps from t_max to t_min."""
        keys = self.keys(len(x), 1) if keys is None else keys
        none = jnp.full(len(x), -1) if at is None else at
        times = jnp.pad(self.grid(self.sde, steps), (0, max(STEPS) - steps), mode="edge")
        return _end(
            self.solver, self.sde, data, keys, keys if others is None else others, none, x, times, steps, folded
        )

    def start(self, data: GaussianMixture, count: int):
        """Exact draws at t_max."""
        return self.sde.perturb(self.keys(count, 2), data.sample(self.keys(count, 3)), jnp.asarray(self.sde.t_max))[0]

    def moments(self, data: GaussianMixture, t) -> tuple[np.ndarray, np.ndarray]:
        """Exact mean and variance of each coordinate at t."""
        weights = data.weights[:, None]
        mean = jnp.sum(weights * data.means, axis=0)
        variance = jnp.sum(weights * (data.stds**2 + data.means**2), axis=0) - mean**2
        alpha, sigma = (jnp.reshape(c, -1) for c in (self.sde.alpha(t), self.sde.sigma(t)))
        return np.asarray(alpha * mean), np.asarray(alpha**2 * variance + sigma**2)

    def count_evaluations(self) -> int:
        """Calls of the score in one step, for rows [3, 2]."""
        data, calls = _mixture(MODES), []

        def counting(x, t):
            calls.append(t)
            return data.score_fn(self.sde)(x, t)

        def step(x):
            t, s = self.grid(self.sde, 2)[:2]
            return advance(self.solver, self.keys(3), self.solver.init(x), t, s, self.sde, counting)

        jax.eval_shape(step, jnp.ones((3, 2)))
        return len(calls)

    def is_noisy(self) -> bool:
        """Whether the end depends on the keys."""
        data = _mixture(NORMAL)
        x = self.start(data, 8)
        ends = [self.run(data, x, STEPS[0], self.keys(8, stream)) for stream in (4, 5)]
        return bool(jnp.any(ends[0] != ends[1]))

    def strong_order(self) -> tuple[dict[int, float], float]:
        """(1), by the number of steps, and the order of the last doubling."""
        data = _mixture(MODES)
        x, score_fn = self.start(data, POINTS), data.score_fn(self.sde)
        reference = Fixed(grid=self.grid, num_steps=2048)
        exact = jax.jit(lambda x: reference(lambda y, t: flow(y, t, self.sde, score_fn), x, self.sde, False)[0])(x)
        ends = {n: self.run(data, x, n) for n in STEPS}
        errors = {n: float(jnp.sqrt(jnp.mean(jnp.sum((end - exact) ** 2, axis=-1)))) for n, end in ends.items()}
        return errors, _rate(errors[STEPS[-2]], errors[STEPS[-1]])

    def weak_order(self) -> tuple[dict[int, float], float]:
        """The differences of (2), and its order; or those to the exact moments of samples."""
        data = _mixture(CENTERED)
        width = math.sqrt(float(self.moments(data, self.sde.t_max)[1][0]))
        coupled = getattr(self.solver, "coupled", False)
        found = [None if coupled else self._linear(data, width, n) for n in STEPS]
        if any(one is None for one in found):
            return self._sampled_order(_mixture(NORMAL))
        pairs = np.asarray(found)
        errors = np.linalg.norm(np.diff(pairs, axis=0), axis=1)
        return dict(zip(STEPS, errors.tolist(), strict=False)), _rate(*errors)

    def _linear(self, data: GaussianMixture, width: float, steps: int) -> tuple[float, float] | None:
        """u_N of (2), for s = width; None if the end is not linear in the start."""
        starts = jnp.asarray([[0.0], [width], [-width]])
        keys = jnp.repeat(self.keys(1, 6), 3, axis=0)
        middle, right, left = (float(end) for end in self.run(data, starts, steps, keys, folded=False)[:, 0])
        if not abs(right + left - 2 * middle) <= 1e-7 * (abs(right - left) + width):
            return None
        keys, others = self.keys(DRAWS, 6), self.keys(DRAWS, 7)
        rows = np.arange(-1, steps)
        keys, others = (jnp.tile(each, len(rows)) for each in (keys, others))
        at = jnp.asarray(np.repeat(rows, DRAWS))
        ends = self.run(data, jnp.zeros((len(at), 1)), steps, keys, others, at, folded=False).reshape(len(rows), DRAWS)
        noise = float(jnp.sum(jnp.mean((ends[1:] - ends[:1]) ** 2, axis=1))) / 2
        scaled = (right - left) / 2
        return scaled, scaled**2 + noise

    def _sampled_order(self, data) -> tuple[dict[int, float], float]:
        exact_mean, exact_variance = (float(m[0]) for m in self.moments(data, self.sde.t_min))
        x = self.start(data, MANY)
        ends = {n: self.run(data, x, n) for n in (8, 16, 32)}
        errors = {
            n: math.hypot(float(jnp.mean(end)) - exact_mean, float(jnp.var(end)) - exact_variance)
            for n, end in ends.items()
        }
        last = list(errors.values())[-2:]
        resolved = last[-1] > 10 * exact_variance * math.sqrt(2 / MANY)
        return errors, _rate(*last) if resolved else math.nan

    def law(self, name: str, data: tuple) -> Law:
        """The largest errors of mean and deviation over the coordinates, after the largest number of steps."""
        mixture = _mixture(data)
        end = np.asarray(self.run(mixture, self.start(mixture, SAMPLES), max(STEPS)))
        mean, variance = self.moments(mixture, self.sde.t_min)
        off = [(end.mean(0) - mean) / np.sqrt(variance), end.std(0) / np.sqrt(variance) - 1]
        worst = [float(part[np.argmax(np.nan_to_num(np.abs(part), nan=np.inf))]) for part in off]
        return Law(name, worst[0], worst[1], LAW + 4 / math.sqrt(SAMPLES))


def _rate(first: float, second: float) -> float:
    """log₂ of the quotient; inf where both are rounding."""
    if max(first, second) < EXACT:
        return math.inf
    return float(np.log2(first / second)) if second > 0 else math.inf
