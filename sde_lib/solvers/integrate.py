"""Ordinary differential equations over the whole interval of a process: dy/dt = field(y, t) between t_min and t_max.

`Adaptive` and `Fixed` serve likelihoods, encoding and decoding. The state y is any pytree of leaves [B, ...], one row
per event. The field is evaluated on the whole batch at once, with t of shape [B]. In `Adaptive` each row has its own
time and steps. It is a function of the same row of the start only, if the field's rows are.

A step is tried with a pair of Runge–Kutta rules of orders p and p − 1, which differ by e, and

    E = max over the leaves of √mean (e/(atol + rtol |y|))²,                                                (1)
    y, u ← y', u + h  where E < 1;     h ← h θ E^{−1/p}, at most what is left                               (2)

with θ = 0.8 (Hairer, Nørsett & Wanner 1993, section II.4). With 0.9 more steps were rejected: on digits, 115
evaluations instead of 103 for the slowest of 32 rows. h is rounded to the nearest power of 2^¼ (`step_size`). In
float32, some per cent of e are rounding errors at a tolerance of 10⁻⁵. So h may still be rounded to another power, and
the solution then changes within the tolerance.

Matrix products and convolutions of the field have the precision of their factors' dtype. By default JAX lets GPUs round
those of float32 to TF32, and TPUs to bfloat16: noise that no shorter step reduces. With it, on a GPU, log p of digits
took 355 evaluations instead of 85, at a tolerance of 10⁻⁵. If `jax_default_matmul_precision` is set, to "default" for
example, that setting is used. A network that computes in bfloat16 still does.

Under `jit` a failure cannot raise: rows that do not finish within max_steps are NaN.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, PyTree

from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.sampling import Grid, PowerGrid
from sde_lib.sde import SDE, expand
from sde_lib.solvers.step_size import StepSize, where_row

if TYPE_CHECKING:
    import diffrax

SAFETY = 0.8
"""θ of (2)."""
FIRST_STEP = 2.0**-4
"""The first h, as a fraction of the whole interval."""
LEAST_STEP = 2.0**-40
"""A row whose h is not larger has failed; in the same unit."""

Field = Callable[[PyTree, Float[Array, " B"]], PyTree]
"""(y, t) → dy/dt, with leaves [B, ...] and t [B]."""


def full_precision(function: Callable) -> Callable:
    """The function, with its products and convolutions traced at JAX's "highest" precision, or at the one set."""

    def precise(*args):
        chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
        with jax.default_matmul_precision(chosen or "highest"):
            return function(*args)

    return precise


class _Rows(NamedTuple):
    """The rows between tries: y, its slope, the completed fraction of the interval, the next h, the number of tries.

    All are floats, as diffrax requires.
    """

    y: PyTree
    slope: PyTree
    done: Float[Array, " B"]
    h: Float[Array, " B"]
    tries: Float[Array, " B"]

    def moving(self) -> Bool[Array, " B"]:
        """Rows that have not arrived, and whose steps have not shrunk to LEAST_STEP."""
        return (self.done < 1) & (self.h > LEAST_STEP)


@functools.cache
def _tsit5() -> "diffrax.AbstractERK":
    import diffrax  # half a second to import, which not every program needs

    return diffrax.Tsit5()


class Adaptive(PyTreeNode):
    """An explicit Runge–Kutta pair of diffrax, with steps by (1) and (2) for each row.

    The variable is u = t^{1/power}. Near the data, the flow of a process with σ² ∝ t moves as √t. In t itself it takes
    twice as many evaluations: on digits, at the default tolerance, about 180, where t^{1/2} and t^{1/3} take about 90.

    Rows are NaN if `max_steps` steps, including rejected ones, were not enough. If y has several leaves, each meets the
    tolerance in its own root mean square. Times have y's dtype. Gradients are those of the steps taken, without the
    choice of the steps.
    """

    rtol: Scalar = number(1e-5, at_least=0)
    atol: Scalar = number(1e-5, above=0)
    power: Scalar = number(3.0, above=0)
    method: "diffrax.AbstractERK | None" = static(None)  # None: diffrax.Tsit5()
    max_steps: int = static(4096, at_least=1)

    def __call__(self, field: Field, y: PyTree, sde: SDE, to_noise: bool) -> tuple[PyTree, Integer[Array, " B"]]:
        """(y at the other end, evaluations of the field for each row [B]), from t_min if `to_noise`, else t_max."""
        return self.between(field, y, *((sde.t_min, sde.t_max) if to_noise else (sde.t_max, sde.t_min)))

    def between(self, field: Field, y: PyTree, t0, t1) -> tuple[PyTree, Integer[Array, " B"]]:
        """(y at t1, evaluations of the field for each row [B]), from y at t0.

        Times must not be negative; t1 may be less than t0. A row's evaluations exclude those made while it waited for
        others.
        """
        none = jnp.zeros(len(jax.tree.leaves(y)[0]), jnp.result_type(*jax.tree.leaves(y)))
        power, field = jnp.asarray(self.power, none.dtype), full_precision(field)
        u0, u1 = (jnp.asarray(t, none.dtype) ** (1 / power) for t in (t0, t1))

        def slope(y, done):
            """dy/d(done), with u = u0 + (u1 − u0) done."""
            u = u0 + (u1 - u0) * done
            return _scaled((u1 - u0) * power * u ** (power - 1), field(y, u**power))

        reused = int(self._tableau.fsal)  # the last stage of a step is then the first of the next
        rows = _Rows(y, slope(y, none) if reused else y, none, none + FIRST_STEP, none)
        rows = _repeat(lambda rows: self._try(slope, rows), rows, self.max_steps)
        y = jax.tree.map(lambda leaf: where_row(rows.done == 1, leaf, jnp.nan), rows.y)
        return y, reused + rows.tries.astype(int) * (self._tableau.num_stages - reused)

    def coarser(self):
        """(This with ten times the tolerance, the fraction of the difference that is our error, about 1/9)."""
        return self.replace(rtol=10 * self.rtol, atol=10 * self.atol), 1 / 9

    @property
    def _method(self) -> "diffrax.AbstractERK":
        return _tsit5() if self.method is None else self.method

    @property
    def _tableau(self) -> "diffrax.ButcherTableau":
        import diffrax

        tableau = self._method.tableau
        if not isinstance(tableau, diffrax.ButcherTableau):
            raise TypeError(f"expected a method with one Butcher tableau; got {type(self._method).__name__}")
        return tableau

    @property
    def _order(self) -> int:
        """p of (2)."""
        import diffrax

        order = self._method.order(diffrax.ODETerm(lambda t, y, args: y))
        if order is None:
            raise TypeError(f"expected a method of known order; got {type(self._method).__name__}")
        return order

    def _try(self, slope, rows: _Rows) -> _Rows:
        """Tries one step in each moving row."""
        moving, left = rows.moving(), 1 - rows.done
        h = jnp.where(moving, jnp.minimum(rows.h, left), 0.0)
        y, error, last = _step(self._tableau, slope, rows, h)
        E = self._size(error, rows.y, y)
        accepted = moving & (E < 1)
        step_size = StepSize(safety=SAFETY, exponent=1 / self._order, low=0.2, high=10.0)
        choose = lambda new, old: jax.tree.map(lambda a, b: where_row(accepted, a, b), new, old)  # noqa: E731
        return _Rows(
            y=choose(y, rows.y),
            slope=choose(last, rows.slope),
            done=jnp.where(accepted, jnp.where(h == left, 1.0, rows.done + h), rows.done),
            h=jnp.where(moving, step_size.next(h, E, accepted), rows.h),
            tries=rows.tries + moving.astype(h.dtype),
        )

    def _size(self, error: PyTree, before: PyTree, after: PyTree) -> Float[Array, " B"]:
        """E of (1), with the larger |y| of both ends; 10³⁰ if it is not finite, so that the step is rejected."""

        def rms(e, before, after):
            scaled = e / (self.atol + self.rtol * jnp.maximum(jnp.abs(before), jnp.abs(after)))
            return jnp.sqrt(jnp.mean(scaled**2, axis=tuple(range(1, e.ndim))))

        sizes = jax.tree.leaves(jax.tree.map(rms, *jax.lax.stop_gradient((error, before, after))))
        E = jnp.max(jnp.stack(sizes), axis=0)
        return jnp.clip(jnp.where(jnp.isfinite(E), E, 1e30), 1e-30)


def _step(tableau: "diffrax.ButcherTableau", slope, rows: _Rows, h) -> tuple[PyTree, PyTree, PyTree]:
    """(y after a step h, the error e, the slope of the last stage) by the stages k_i = slope(y + h Σ_j a_ij k_j, …)."""
    first, stages = int(tableau.fsal), tableau.num_stages
    a = np.zeros((stages, stages))
    a[np.tril_indices(stages, -1)] = np.concatenate(tableau.a_lower)
    c = np.concatenate([[0.0], tableau.c])

    def moved(weights, slopes):
        return jax.tree.map(lambda y, k: y + expand(h, y) * _combined(weights, k), rows.y, slopes)

    @jax.checkpoint
    def stage(carry, which):
        slopes, _ = carry
        i, a, c = which
        y = moved(a, slopes)
        k = slope(y, rows.done + c * h)
        return (jax.tree.map(lambda all_of_them, k: all_of_them.at[i].set(k), slopes, k), y), None

    slopes = jax.tree.map(lambda k: jnp.zeros((stages, *k.shape), k.dtype).at[0].set(k), rows.slope)
    which = jnp.arange(first, stages), *(jnp.asarray(table[first:], h.dtype) for table in (a, c))
    (slopes, y), _ = jax.lax.scan(stage, (slopes, rows.y), which)
    if not tableau.fsal:
        y = moved(jnp.asarray(tableau.b_sol, h.dtype), slopes)
    error = _scaled(h, jax.tree.map(lambda k: _combined(jnp.asarray(tableau.b_error, k.dtype), k), slopes))
    return y, error, jax.tree.map(lambda k: k[-1], slopes)


def _repeat(tried: Callable, rows: _Rows, limit: int) -> _Rows:
    """rows ← tried(rows) while any is moving, at most `limit` times."""
    import diffrax

    from sde_lib.solvers.iteration import Iteration

    zero = jnp.zeros((), rows.h.dtype)  # diffrax gives its state the dtype of its times
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, rows, args: tried(rows)),
        Iteration(),
        t0=zero,
        t1=zero + limit,
        dt0=zero + 1,
        y0=rows,
        max_steps=limit,
        event=diffrax.Event(lambda t, rows, args, **_: ~jnp.any(rows.moving())),
        throw=False,
    )
    return jax.tree.map(lambda leaf: leaf[0], solution.ys)


class Fixed(PyTreeNode):
    """The classical Runge–Kutta method of order 4 on a grid: 4 evaluations per step."""

    grid: Grid = PowerGrid(power=3.0)
    num_steps: int = static(128, at_least=1)

    def __call__(self, field: Field, y: PyTree, sde: SDE, to_noise: bool) -> tuple[PyTree, Integer[Array, " B"]]:
        """As `Adaptive.__call__`."""
        rows, field = len(jax.tree.leaves(y)[0]), full_precision(field)
        times = self.grid(sde, self.num_steps).astype(jnp.result_type(*jax.tree.leaves(y)))
        times = jnp.broadcast_to((times[::-1] if to_noise else times)[:, None], (self.num_steps + 1, rows))

        @jax.checkpoint
        def step(y, interval):
            t, s = interval
            h, middle = s - t, 0.5 * (s + t)
            k1 = field(y, t)
            k2 = field(_add(y, 0.5 * h, k1), middle)
            k3 = field(_add(y, 0.5 * h, k2), middle)
            k4 = field(_add(y, h, k3), s)
            slope = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
            return _add(y, h, slope), None

        return jax.lax.scan(step, y, (times[:-1], times[1:]))[0], jnp.full(rows, 4 * self.num_steps)

    def coarser(self):
        """(This with half of the steps, the fraction of the difference that is our error: 1/15 at order 4).

        Raises ValueError for a single step.
        """
        if self.num_steps < 2:
            raise ValueError(f"a likelihood requires at least 2 steps; got num_steps={self.num_steps}")
        half = self.num_steps // 2
        return self.replace(num_steps=half), 1 / ((self.num_steps / half) ** 4 - 1)


def _combined(weights: Float[Array, " m"], slopes: Float[Array, "m ..."]) -> Float[Array, "..."]:
    """Σ w_j k_j, in full precision: an accelerator's default for products would be coarser than the tolerance."""
    return jnp.tensordot(weights, slopes, 1, precision="highest")


def _add(y, h, slope):
    return jax.tree.map(lambda a, b: a + b, y, _scaled(h, slope))


def _scaled(factor: Float[Array, " B"], y: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: expand(factor, leaf) * leaf, y)
