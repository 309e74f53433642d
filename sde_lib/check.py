"""Does a process agree with itself? `check_sde` measures, and names the method to look at.

A process says the same things several times over. With a linear drift, the kernel N(α x_0, σ² I) has to be the one that
drift and diffusion make (Särkkä & Solin 2019, eq. 5.50 and 5.51):

    f = d log α/dt,                                                                                     (1)
    g²/σ² = 2 (d log σ/dt − f) = −dλ/dt.                                                                (2)

The derivatives are differences of fourth order in float64, so they know nothing of how the process derives its own. The
same is asked of the whole of [t_min, t_max], since a table that is read by index fulfils (1) and (2) at almost every t:

    ∫ f dt = log α(t_max)/α(t_min),   ∫ g²/σ² dt = λ(t_min) − λ(t_max).                                 (3)

The prior stands for p at t_max. For normal data that marginal q = N(α m, α² s² + σ²) is exact, and KL(q ‖ prior) is a
mean over draws of q. Whether the prior's draws and density are of one law p, whatever its normaliser, is told by
Stein's identity, which holds where p is smooth and vanishes at infinity; the normaliser is an importance-weighted mean:

    E_p[∂_i log p] = 0,   E_p[(x_i − c) ∂_i log p] = −1,                                                (4)
    ∫ p dx = E_r[p(x)/r(x)],   r normal, with the moments of the prior's draws.                         (5)

The reverse drifts are compared with their formulas, and with what they are for. With the exact score of normal data
they are linear, a(t) x + b(t), read off at two x; they take a cloud N(μ, v) from t_max to t_min by

    dμ/dt = a μ + b,   dv/dt = 2 a v − g²  (the reverse SDE),   dv/dt = 2 a v  (the probability flow),  (6)

and it has to arrive at the marginal there.

A drift that is not linear has no kernel. Then paths from the data are simulated, and their ends compared with the
prior's draws by the energy distance (Székely & Rizzo 2013, J. Stat. Plan. Inference 143, 1249), as a share of its
first term:

    1 − (E|X − X'| + E|Y − Y'|)/(2 E|X − Y|),   0 for equal laws; 0.05 for normals whose deviations differ by 2.  (7)
"""

import math
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.noise import fold, sample_keys
from sde_lib.pathwise import heun_step
from sde_lib.sde import SDE

EXACT = 1e-4  # for what holds up to rounding
DERIVATIVE = 2e-3  # for what is compared with a difference quotient
INTEGRAL = 1e-2  # for what is integrated over [t_min, t_max]
START = 0.01  # how far α(t_min) may be from 1
NOISE = 0.05  # σ(t_min), in standard deviations of the data
NATS = 0.01  # KL a dimension between marginal and prior: deviations 10 % apart, or means 0.14 deviations
ENERGY = 0.005  # energy distance (7): deviations 25 % apart
ERRORS = 5.0  # standard errors granted to a mean over draws


class Row(NamedTuple):
    """One comparison: `error` may be as large as `tolerance`; if it is larger, `hint` says where to look."""

    name: str
    error: float
    tolerance: float
    hint: str

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.tolerance)

    def __str__(self) -> str:
        line = f"{'ok' if self.ok else 'FAIL':4}  {self.error:8.1e}  {self.tolerance:8.1e}  {self.name}"
        return line if self.ok else f"{line}\n      {self.hint}"


class Report(NamedTuple):
    """What was compared, in order, and the groups of comparisons not reached because one before them failed."""

    title: str
    rows: tuple[Row, ...]
    not_reached: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.ok)

    def __str__(self) -> str:
        rest = [f"–     not reached: {', '.join(self.not_reached)}"] if self.not_reached else []
        return "\n".join([self.title, "         error   allowed", *map(str, self.rows), *rest])


class SDECheckError(ValueError):
    """The process contradicts itself: the message has the rows that failed, and `report` all of them."""

    def __init__(self, report: Report):
        self.report = report
        super().__init__("\n".join([f"{report.title} does not agree with itself:", *map(str, report.failed)]))


def check_sde(
    sde: SDE, *, shape: tuple[int, ...] | None = None, data=None, data_mean=0.0, data_std=1.0, seed=0, verbose=True
) -> Report:
    """Measures whether the methods of `sde` agree with each other, and with data of the given mean and deviation.

    `shape` is an event's; left out, it is that of the process's coefficients, or (4,) where coordinates are alike. Data
    are taken to be normal, with numbers for mean and deviation or arrays that broadcast to the shape. `data`
    [N, *shape], draws of x_0, give shape and both moments instead, and are where simulated paths start.

    Any SDE will do; one with `alpha` and `sigma` is checked as one with a linear drift. With float64 enabled or not, in
    seconds on a CPU. Prints the report unless told not to. Raises SDECheckError, which names the methods to look at.
    The groups of comparisons build on each other, so the first group in which something fails is the last one made.
    """
    case = _Case.of(sde, shape, data, data_mean, data_std, seed)
    rows, cause, groups = [], None, dict(_GAUSSIAN if case.gaussian else _ANY)
    with np.errstate(all="ignore"):
        while groups and all(row.ok for row in rows):
            group = groups.pop(next(iter(groups)))
            try:
                rows.extend(group(case))
            except _BrokenError as error:
                rows.append(Row(f"{error.method} works", math.inf, 0.0, f"{error}: look at {error.method}"))
                cause = error.__cause__
    moments = f"data of mean {_brief(case.mean)} and deviation {_brief(case.std)}"
    report = Report(f"{type(sde).__name__}, event shape {case.shape}, {moments}", tuple(rows), tuple(groups))
    if verbose:
        print(report)
    if report.failed:
        raise SDECheckError(report) from cause
    return report


class _BrokenError(Exception):
    """A method raised, or returned something of the wrong shape."""

    def __init__(self, method: str, message: str):
        self.method = method
        super().__init__(message)


# Programs of which the process is an argument, so that its parameters can change without a compilation. Pytree
# definitions of two dataclasses with as many fields compare equal (jax 0.10), and only their hashes keep their programs
# apart, most of the time: so the class is an argument too. A program runs a few times only, and XLA's optimisation does
# not pay.
_program = partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


def _value(sde: SDE, name: str, *args):
    try:
        return jax.tree.map(jnp.asarray, getattr(sde, name)(*args))
    except Exception as error:
        raise _BrokenError(name, f"under jit {name} raises {type(error).__name__}: {error}") from error


def _moved(sde: SDE, name: str, x, *args):
    """A method that takes x and returns its like."""
    value = _value(sde, name, x, *args)
    if value.shape != x.shape:
        raise _BrokenError(name, f"{name} has shape {value.shape} for x of shape {x.shape}")
    return value


def _fitted(name: str, value, shape: tuple[int, ...]):
    """A coefficient as an array that broadcasts to `shape` [B, *event], and has B rows."""
    fits = len(value.shape) == len(shape) and all(m in (1, n) for m, n in zip(value.shape, shape, strict=True))
    if not fits and value.shape not in ((), shape[:1]):
        raise _BrokenError(
            name, f"{name} has shape {value.shape} for times of shape {shape[:1]} and x of shape {shape}"
        )
    value = value.reshape(value.shape + (1,) * (len(shape) - value.ndim))
    return jnp.broadcast_to(value, (shape[0], *value.shape[1:]))


def _names(sde: SDE) -> list[str]:
    return [name for name in ("alpha", "sigma", "drift_rate", "diffusion", "log_snr") if hasattr(sde, name)]


@partial(_program, static_argnums=(0, 3))
def _coefficients(cls, sde: SDE, t, event: tuple[int, ...]) -> dict:
    """Each coefficient at times [N], [N, *event] with axes of 1 where coordinates are alike."""
    shape = (len(t), *event)
    values = {name: _fitted(name, _value(sde, name, t), shape) for name in _names(sde)}
    if hasattr(sde, "alpha") and not hasattr(sde, "drift_rate"):
        values["drift_rate"] = _moved(sde, "drift", jnp.ones(shape, t.dtype), t)
    return values


@_program
def _rows(cls, sde: SDE, x, t) -> tuple[dict, dict]:
    """Coefficients and drift of a batch with times [B], and row by row with a scalar t."""

    def values(x, t):
        coefficients = {name: _fitted(name, _value(sde, name, t), x.shape) for name in _names(sde)}
        return {**coefficients, "drift": _moved(sde, "drift", x, t)}

    together = values(x, t)
    alone = jax.lax.map(lambda row: jax.tree.map(lambda a: a[0], values(row[0][None], row[1])), (x, t))
    return together, alone


@_program
def _contraction(cls, sde: SDE, t, s, x):
    return _fitted("contraction", _value(sde, "contraction", t, s), x.shape)


@_program
def _drifts(cls, sde: SDE, x, t, score) -> dict:
    reverse = {name: _moved(sde, name, x, t, score) for name in ("reverse_drift", "flow_drift")}
    return {"drift": _moved(sde, "drift", x, t), **reverse}


@partial(_program, static_argnums=(0, 3))
def _draws(cls, sde: SDE, keys, event: tuple[int, ...]):
    x = _value(sde, "prior_sample", keys, event)
    if x.shape != (len(keys), *event):
        message = f"prior_sample has shape {x.shape} for {len(keys)} keys and the event shape {event}"
        raise _BrokenError("prior_sample", message)
    return x


@_program
def _density(cls, sde: SDE, x) -> tuple:
    """log p of the prior [B], and its gradient in x."""

    def total(x):
        logp = _value(sde, "prior_logp", x)
        if logp.shape != x.shape[:1]:
            raise _BrokenError("prior_logp", f"prior_logp has shape {logp.shape} for x of shape {x.shape}")
        return jnp.sum(logp), logp

    gradient, logp = jax.grad(total, has_aux=True)(x)
    return logp, gradient


@partial(jax.jit, static_argnums=0)
def _paths(cls, sde: SDE, x, t, keys) -> tuple:
    """Ends of paths through the times t [N], and whether they were finite at each but the first."""

    def step(x, inputs):
        k, t, h = inputs
        x = heun_step(fold(keys, k), sde, x, t, h)
        return x, jnp.all(jnp.isfinite(x))

    return jax.lax.scan(step, x, (jnp.arange(len(t) - 1), t[:-1], jnp.diff(t)))


class _Case(NamedTuple):
    """The process and the data. Outside the programs everything is numpy's, in float64."""

    sde: SDE
    shape: tuple[int, ...]
    data: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray
    seed: int

    @classmethod
    def of(cls, sde, shape, data, data_mean, data_std, seed) -> "_Case":
        if data is not None:
            data = np.asarray(data, np.float64)
            shape, data_mean, data_std = data.shape[1:], data.mean(axis=0), data.std(axis=0)
        elif shape is None:
            shape = _event_shape(sde) or (4,)
        mean, std = (np.broadcast_to(np.asarray(m, np.float64), shape) for m in (data_mean, data_std))
        return cls(sde, tuple(shape), data, mean, std, seed)

    @property
    def gaussian(self) -> bool:
        return hasattr(self.sde, "alpha") and hasattr(self.sde, "sigma")

    @property
    def interval(self) -> tuple[float, float]:
        return float(self.sde.t_min), float(self.sde.t_max)

    def run(self, program, *args, x64: bool = True) -> Any:
        """The program's value for the process, all arrays in one precision."""
        dtype = np.float64 if x64 else np.float32

        def cast(a):
            floating = isinstance(a, np.ndarray | np.generic | jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)
            return np.asarray(a).astype(dtype) if floating else a

        with jax.enable_x64(x64):
            try:
                value = program(type(self.sde), *jax.tree.map(cast, (self.sde, *args)))
            except _BrokenError:
                raise
            except Exception as error:
                message = f"with its fields traced {type(self.sde).__name__} raises {type(error).__name__}: {error}"
                raise _BrokenError("the fields", message) from error
            return jax.tree.map(lambda a: np.asarray(a, np.float64), value)

    def at(self, t: np.ndarray, x64: bool = True) -> dict[str, np.ndarray]:
        """The coefficients at times [N], [N, *event] with axes of 1 where coordinates are alike; in pieces of one size,
        so that there is one compilation."""
        pieces = np.append(t, np.full(-len(t) % _PIECE, t[-1])).reshape(-1, _PIECE)
        values = [self.run(_coefficients, piece, self.shape, x64=x64) for piece in pieces]
        return {name: np.concatenate([v[name] for v in values])[: len(t)] for name in values[0]}

    def keys(self, count: int) -> jax.Array:
        return sample_keys(jax.random.key(self.seed), jnp.arange(count))

    def normal(self, count: int) -> np.ndarray:
        return np.random.default_rng(self.seed).normal(size=(count, *self.shape))

    def times(self, count: int) -> np.ndarray:
        """3 count + 1 times that float32 has, from t_min to t_max: even ones, which stand off the round numbers where
        tables have their knots, and ever finer ones towards both ends."""
        low, high = self.interval
        early = np.geomspace(max(low, 1e-6 * high), high, count + 1)[1:]
        even = low + (high - low) * (np.arange(count) + 0.618) / count
        late = high - (high - low) * np.geomspace(1e-7, 0.97, count)
        t = np.sort(np.concatenate([[low], early, even, late]))
        return t.astype(np.float32).clip(np.float32(low), np.float32(high)).astype(np.float64)


_PIECE = 512


def _event_shape(sde: SDE) -> tuple[int, ...]:
    """The axes that the coefficients have beside that of time: () where coordinates are alike, or nothing is known."""
    middle = jnp.full(1, 0.5 * (sde.t_min + sde.t_max))
    try:
        shapes = [jax.eval_shape(lambda t, name=name: _value(sde, name, t), middle).shape for name in _names(sde)]
        return np.broadcast_shapes(*(shape[1:] for shape in shapes))
    except (_BrokenError, ValueError):
        return ()


def _brief(a: np.ndarray) -> str:
    return f"{a.min():.3g}" if np.all(a == a.flat[0]) else f"{a.min():.3g} to {a.max():.3g}"


def _worst(error: np.ndarray) -> int:
    """The index on the first axis of the largest error; not a number counts as the largest."""
    return int(np.argmax(np.max(np.nan_to_num(error, nan=np.inf).reshape(len(error), -1), axis=1)))


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest error of a row of a, as a share of the largest entry in that row of b."""
    a, b = (c.reshape(len(c), -1) for c in np.broadcast_arrays(a, b))
    return float(np.max(np.max(np.abs(a - b), axis=1) / np.maximum(np.max(np.abs(b), axis=1), 1e-30)))


def _compared(got: np.ndarray, want: np.ndarray, error: np.ndarray, t: np.ndarray, what: str) -> str:
    """'2.00 times what at every t', or what it is against what it should be at the worst t."""
    got, want, error = np.broadcast_arrays(got, want, error)
    k = _worst(error)
    j = np.argmax(np.nan_to_num(error[k], nan=np.inf))
    got_k, want_k = got[k].flat[j], want[k].flat[j]
    if np.isfinite(got_k) and want_k and np.all(np.abs(got * want_k - want * got_k) <= 0.02 * np.abs(want * got_k)):
        return f"{got_k / want_k:.2f} times {what} at every t"
    times = f" ({got_k / want_k:.2f} times)" if want_k else ""
    return f"{got_k:.3g} where {what} is {want_k:.3g}{times}, at t = {t[k]:.3g}"


def _methods(case: _Case) -> Iterator[Row]:
    """Can the methods be called as solvers and losses do: under jit, with t a scalar or [B], and x [B, *event]?"""
    low, high = case.interval
    if not 0 <= low < high:
        raise _BrokenError("t_min and t_max", f"times have 0 ≤ t_min < t_max, and these are {low:.3g} and {high:.3g}")
    count = next(n for n in (3, 5, 7, 11, 13, 17) if n not in case.shape)  # a batch that fits no axis of an event
    t = np.linspace(low, high, count + 2)[1:-1]
    together, alone = case.run(_rows, case.mean + case.std * case.normal(count), t, x64=False)
    errors = {name: _relative(*(np.nan_to_num(values[name]) for values in (together, alone))) for name in alone}
    wrong = ", ".join(name for name in errors if not errors[name] <= EXACT)
    hint = f"a row is a function of its own x and t alone (`expand` fits a coefficient to x): look at {wrong}"
    yield Row("row i of a batch is the same alone", max(errors.values()), EXACT, hint)


def _kernel(case: _Case) -> Iterator[Row]:
    """Do α and σ belong to drift and diffusion?"""
    t = case.times(100)
    c = case.at(t)
    for name in ("alpha", "sigma"):
        bad = ~(np.isfinite(c[name]) & (c[name] > 0))
        k = _worst(bad)
        hint = f"it is {np.min(c[name][k]):.3g} at t = {t[k]:.3g}: look at {name}"
        yield Row(f"{name} is finite and positive", float(np.mean(bad)), 0.0, hint)
        if np.any(bad):
            return
    yield from _ends(case, t, c["alpha"], c["sigma"])
    equations = list(_moment_equations(case))
    yield from equations
    if all(row.ok for row in equations):
        yield from _integrals(case, t, c)
    yield from _consequences(case)


def _ends(case: _Case, t: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Iterator[Row]:
    start = f"at t_min = {case.interval[0]:.3g}: look at"
    hint = f"the data are multiplied by {_brief(alpha[0])} {start} alpha, or at t_min"
    yield Row("alpha(t_min) = 1", float(np.max(np.abs(alpha[0] - 1))), START, hint)
    hint = f"noise of deviation {_brief(sigma[0])} is left in the data {start} sigma, or at t_min"
    left = np.sqrt(np.mean(sigma[0] ** 2) / np.mean(case.std**2))
    yield Row("sigma(t_min) is small beside the data", float(left), NOISE, hint)
    apart = np.diff(t) > 1e-5 * t[1:]
    rises = ~(np.diff(2 * np.log(alpha / sigma), axis=0)[apart] < 0)
    hint = f"it rises or rests at t = {t[1:][apart][_worst(rises)]:.3g}: look at alpha and sigma"
    yield Row("λ = log α²/σ² falls", float(np.mean(rises)), 0.0, hint)


def _moment_equations(case: _Case) -> Iterator[Row]:
    """(1), and (2) with the process's own f or, should that be wrong, with the one that α says."""
    low, high = case.interval
    early = np.geomspace(1.02 * max(low, 1e-6 * high), high - 1e-3 * (high - low), 50)
    even = low + (high - low) * (np.arange(40) + 0.618) / 40
    late = high - (high - low) * np.geomspace(1e-3, 0.5, 38)
    t = np.sort(np.concatenate([early, even, late]))
    dlog_alpha, dlog_sigma = _log_derivatives(case, t)
    fall = 2 * (dlog_sigma - dlog_alpha)  # −dλ/dt, the scale of both equations
    c = case.at(t)
    rate, g, sigma = c["drift_rate"], c["diffusion"], c["sigma"]

    name = "drift_rate" if hasattr(case.sde, "drift_rate") else "drift"
    error = np.abs(rate - dlog_alpha) / (np.abs(dlog_alpha) + 0.02 * np.abs(fall))
    hint = f"{name}(t) is {_compared(rate, dlog_alpha, error, t, 'd log α/dt')}: look at {name}, or at alpha"
    first = Row(f"{name} = d log α/dt", float(np.max(error)), DERIVATIVE, hint)
    yield first
    if not first.ok and not np.all(np.isfinite(g)):
        return  # g² is negative because it was derived from the wrong f

    own, true = (np.abs((g / sigma) ** 2 - 2 * (dlog_sigma - f)) / np.abs(fall) for f in (rate, dlog_alpha))
    error, f = (own, rate) if first.ok or np.max(own) <= np.max(true) else (true, dlog_alpha)

    def explains(g_squared, slope):
        """Do these fulfil (2) in the places of g²/σ² and d log σ/dt?"""
        return np.max(np.abs(g_squared - 2 * (slope - f)) / np.abs(fall)) <= 5 * DERIVATIVE

    if explains(g / sigma**2, dlog_sigma):
        hint = "diffusion(t) is g², and should be its root: look at diffusion"
    elif explains(g**2 / sigma, 0.5 * dlog_sigma):
        hint = "sigma(t) is σ², and should be its root: look at sigma"
    else:
        what = _compared(g**2, 2 * sigma**2 * (dlog_sigma - f), error, t, "dσ²/dt − 2 f σ²")
        hint = f"diffusion(t)² is {what}: look at diffusion, or at sigma"
    yield Row("diffusion² = dσ²/dt − 2 f σ²", float(np.max(error)), DERIVATIVE, hint)


def _log_derivatives(case: _Case, t: np.ndarray) -> Iterator[np.ndarray]:
    """d log α/dt and d log σ/dt by central differences of fourth order, each t with the step that agrees best with the
    one ten times smaller: so rounding and curvature are balanced, wherever they lie."""
    widest = np.minimum(0.01 * t, 0.5 * np.minimum(t - case.interval[0], case.interval[1] - t))
    steps = widest * np.asarray([1.0, 0.1, 0.01, 0.001])[:, None]
    points = t + steps * np.asarray([-2.0, -1.0, 1.0, 2.0])[:, None, None]
    c = case.at(points.reshape(-1))
    for name in ("alpha", "sigma"):
        values = np.log(c[name]).reshape(*points.shape, *c[name].shape[1:])
        differences = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12
        slopes = differences / steps.reshape(steps.shape + (1,) * (differences.ndim - steps.ndim))
        best = np.argmin(np.abs(np.diff(slopes, axis=0)), axis=0)
        yield np.take_along_axis(slopes, best[None], axis=0)[0]


def _integrals(case: _Case, t: np.ndarray, c: dict) -> Iterator[Row]:
    """(3), by Simpson's rule."""
    middle = case.at(0.5 * (t[1:] + t[:-1]))
    for name, function, antiderivative in (
        ("∫ f dt = log α(t_max)/α(t_min)", lambda c: c["drift_rate"], np.log(c["alpha"])),
        (
            "∫ g²/σ² dt = λ(t_min) − λ(t_max)",
            lambda c: (c["diffusion"] / c["sigma"]) ** 2,
            2 * np.log(c["sigma"] / c["alpha"]),
        ),
    ):
        ends, centre = function(c), function(middle)
        length = np.diff(t).reshape((-1,) + (1,) * (centre.ndim - 1))
        integral = np.sum(length * (ends[1:] + 4 * centre + ends[:-1]) / 6, axis=0)
        change = antiderivative[-1] - antiderivative[0]
        error = np.max(np.abs(integral - change) / np.maximum(1.0, np.abs(change)))
        hint = f"{_brief(integral)} is not {_brief(change)}, though rates fit slopes at single times: "
        hint += "look at alpha and sigma: do they move in steps, as a table does that is read by index?"
        yield Row(name, float(error), INTEGRAL, hint)


def _consequences(case: _Case) -> Iterator[Row]:
    """Methods that repeat what α, σ and f say."""
    t = np.resize(case.times(100), _PIECE)
    s = np.minimum(t, t[::-1])
    x = case.mean + (case.std + 1) * case.normal(_PIECE)
    c = case.at(t)
    drift, rate = case.run(_drifts, x, t, x)["drift"], c["drift_rate"]
    alone = _relative(drift, rate + 0 * x) <= EXACT
    hint = "drift(x, t) is the rate alone, not times x" if alone else "the drift is not f(t) x"
    yield Row("drift(x, t) = f(t) x", _relative(drift, rate * x), EXACT, f"{hint}: look at drift")
    error = np.max(np.abs(case.run(_contraction, t, s, x) * case.at(s)["alpha"] / c["alpha"] - 1))
    yield Row("contraction(t, s) = α(t)/α(s)", float(error), EXACT, "look at contraction")
    if "log_snr" in c:
        error = np.max(np.abs(c["log_snr"] - 2 * np.log(c["alpha"] / c["sigma"])))
        yield Row("log_snr = log α²/σ²", float(error), EXACT, f"it is off by up to {error:.3g}: look at log_snr")


def _numbers(case: _Case) -> Iterator[Row]:
    """Is float32 enough: finite on all of [t_min, t_max], and accurate in its first half, where kernels cancel?"""
    t = case.times(100)
    late = (t > np.mean(case.interval)).reshape((-1,) + (1,) * len(case.shape))
    singles, doubles = case.at(t, x64=False), case.at(t)
    for name in (name for name in doubles if name != "log_snr"):
        single, double = singles[name], doubles[name]
        scale = np.maximum(np.abs(double), 1e-30)
        if name == "drift_rate":  # as in (1), f matters beside dλ/dt
            scale = scale + 0.02 * (doubles["diffusion"] / doubles["sigma"]) ** 2
        lowest = {"alpha": 1e-38, "sigma": 1e-38, "diffusion": 0.0}.get(name, -np.inf)
        error = np.where(late, 0.0, np.abs(single - double) / scale)
        error = np.where(np.isfinite(single) & (single >= lowest), error, np.inf)
        k = _worst(error)
        got, want = np.min(single[k]), np.min(double[k])
        hint = f"it is {got:.5g}, and {want:.5g} in float64, at t = {t[k]:.3g}: look at {name}"
        if np.isfinite(want) and want >= lowest:
            hint += "; −expm1(−x) keeps the digits that 1 − exp(−x) loses"
        yield Row(f"{name} in float32", float(np.max(error)), EXACT, hint)


def _prior_of_kernel(case: _Case) -> Iterator[Row]:
    """Is the prior what normal data become, its draws as well as its density?"""
    c = case.at(np.full(1, case.interval[1]))
    mean, variance = c["alpha"][0] * case.mean, (c["alpha"][0] * case.std) ** 2 + c["sigma"][0] ** 2
    x = yield from _prior_draws(case)
    centre, spread = x.mean(axis=0), x.var(axis=0)
    kl = 0.5 * ((variance + (mean - centre) ** 2) / spread - 1 - np.log(variance / spread))
    hint = (
        f"the marginal at t_max has deviation {_brief(np.sqrt(variance))}, the draws have {_brief(np.sqrt(spread))}: "
    )
    hint += "look at prior_sample (prior_std), or at t_max"
    draws = Row("KL(marginal at t_max ‖ prior_sample)", float(np.max(kl)), NATS + 20 / len(x), hint)
    yield draws
    log_norm = yield from _prior_density(case, x, draws.ok)
    z = case.normal(len(x))
    log_q = _log_normal(z, np.broadcast_to(np.sqrt(variance), case.shape))
    log_p = case.run(_density, mean + np.sqrt(variance) * z)[0] - log_norm
    hint = "the density does not fit the marginal at t_max: look at prior_logp (prior_std), or at t_max"
    yield _estimate("KL(marginal at t_max ‖ prior_logp)", (log_q - log_p) / math.prod(case.shape), NATS, hint)


def _prior_of_paths(case: _Case) -> Iterator[Row]:
    """Is the prior what the data become? (7)"""
    x = yield from _prior_draws(case)
    t, count = np.unique(case.times(100)), int(np.clip(2**17 // math.prod(case.shape), 128, 2000))
    start = case.mean + case.std * case.normal(count)
    if case.data is not None:
        start = case.data[np.random.default_rng(case.seed).integers(len(case.data), size=count)]
    ends, finite = case.run(_paths, start, t, case.keys(count), x64=False)
    hint = f"they blow up at t = {t[1:][np.argmin(finite)]:.3g}: look at drift (its sign?), or at the data's deviation"
    yield Row("simulated paths stay finite", float(np.mean(~np.isfinite(ends))), 0.0, hint)
    if not np.all(np.isfinite(ends)):
        return
    hint = f"they end with mean {_brief(ends.mean(axis=0))} and deviation {_brief(ends.std(axis=0))}, the draws have "
    hint += f"{_brief(x.mean(axis=0))} and {_brief(x.std(axis=0))}: look at prior_sample, at drift, or at t_max"
    draws = Row("simulated paths end as prior_sample draws", _energy_distance(ends, x[:count]), ENERGY, hint)
    yield draws
    yield from _prior_density(case, x, draws.ok)


def _prior_draws(case: _Case) -> Generator[Row, None, np.ndarray]:
    keys = case.keys(int(np.clip(2**20 // math.prod(case.shape), 2000, 2**14)))
    x = case.run(_draws, keys, case.shape)
    error = _relative(case.run(_draws, keys[::-1], case.shape)[::-1], x)
    hint = "the keys in another order give other draws: look at prior_sample"
    yield Row("row i of prior_sample is a function of keys[i]", error, EXACT, hint)
    return x


def _prior_density(case: _Case, x: np.ndarray, draws_fit: bool) -> Generator[Row, None, float]:
    """(4) and (5) on draws x of the prior; returns log ∫ p dx, 0 where it cannot be told."""
    mean, std = x.mean(axis=0), x.std(axis=0)
    score = std * case.run(_density, x)[1]
    stein = np.stack([score, (x - mean) / std * score + 1], axis=-1)
    hint = f"draws and density are of different laws: look at {'prior_logp' if draws_fit else 'prior_sample'}"
    same = _estimate("Stein's identity for prior_sample and prior_logp", stein, 0.02, hint)
    yield same
    wider = std * (1 + 0.5 / math.sqrt(math.prod(case.shape)))
    z = np.random.default_rng(case.seed + 1).normal(size=x.shape)
    log_weight = case.run(_density, mean + wider * z)[0] - _log_normal(z, wider)
    weight = np.exp(log_weight - np.max(log_weight))
    if not same.ok or not np.sum(weight) ** 2 > 300 * np.sum(weight**2):  # fewer than 300 effective draws tell nothing
        return 0.0
    log_norm = float(np.max(log_weight) + np.log(np.mean(weight)))
    spread = ERRORS * float(np.std(weight) / np.mean(weight)) / math.sqrt(len(x))
    hint = f"the log density is {log_norm:.3g} nats too large everywhere: look at prior_logp"
    yield Row("∫ exp(prior_logp) dx = 1", abs(log_norm), NATS * math.prod(case.shape) + spread, hint)
    return log_norm


def _log_normal(z: np.ndarray, std: np.ndarray) -> np.ndarray:
    """log density [N] of std z."""
    return np.sum((-0.5 * (z**2 + np.log(2 * math.pi * std**2))).reshape(len(z), -1), axis=1)


def _estimate(name: str, draws: np.ndarray, tolerance: float, hint: str) -> Row:
    """The means of draws [N, ...] against 0."""
    errors = np.std(draws, axis=0) / math.sqrt(len(draws))
    return Row(name, float(np.max(np.abs(np.mean(draws, axis=0)))), tolerance + ERRORS * float(np.max(errors)), hint)


def _energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """(7), coordinates in units of x's deviation; the zeros of a draw with itself left out, so that it is unbiased."""
    scale = np.maximum(x.std(axis=0), 1e-30)
    x, y = (a.reshape(len(a), -1) for a in (x / scale, y / scale))

    def total(a, b):
        squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * a @ b.T
        return np.sum(np.sqrt(np.maximum(squares, 0.0)))

    within = sum(total(a, a) / (len(a) * (len(a) - 1)) for a in (x, y))
    return float(1 - within / (2 * total(x, y) / (len(x) * len(y))))


def _reverse(case: _Case) -> Iterator[Row]:
    """Are the two reverse drifts f − g² score and f − ½ g² score?"""
    t = np.resize(case.times(100), _PIECE)
    x, score = case.mean + (case.std + 1) * case.normal(_PIECE), case.normal(_PIECE)[::-1]
    values, g2 = case.run(_drifts, x, t, score), case.at(t)["diffusion"] ** 2
    for name, factor, formula in (("reverse_drift", 1.0, "f − g² score"), ("flow_drift", 0.5, "f − ½ g² score")):
        got, drift = values[name], values["drift"]
        found = np.nanmedian((got - drift) / (g2 * score))
        hint = f"the score comes with {found:.2f} g², and should with {-factor:.2f} g²: look at {name}"
        error = np.abs(got - (drift - factor * g2 * score)) / np.maximum(np.abs(drift) + np.abs(g2 * score), 1e-30)
        yield Row(f"{name} = {formula}", float(np.max(error)), EXACT, hint)


def _way_back(case: _Case) -> Iterator[Row]:
    """(6) by Runge and Kutta's method of fourth order, from μ half a deviation off the data's mean."""
    nodes = case.times(_PIECE // 6)
    t = np.insert(nodes, np.arange(1, len(nodes)), 0.5 * (nodes[1:] + nodes[:-1]))
    last, t = len(t) - 1, np.append(t, np.full(_PIECE - len(t), t[-1]))
    std = np.where(case.std > 0, case.std, np.sqrt(np.mean(case.std**2)))
    c = case.at(t)
    mean = c["alpha"] * (case.mean + 0.5 * std)
    variance = np.broadcast_to((c["alpha"] * std) ** 2 + c["sigma"] ** 2, mean.shape)
    at_0, at_1 = (case.run(_drifts, np.full(mean.shape, x), t, (mean - x) / variance) for x in (0.0, 1.0))
    for name, noise in (("reverse_drift", c["diffusion"] ** 2), ("flow_drift", 0 * c["diffusion"])):
        a, b = at_1[name] - at_0[name], at_0[name]

        def slope(k, y, a=a, b=b, noise=noise):
            return np.stack([a[k] * y[0] + b[k], 2 * a[k] * y[1] - noise[k]])

        y = np.stack([mean[last], variance[last]])
        for k in range(last, 0, -2):
            h = t[k - 2] - t[k]
            first = slope(k, y)
            second = slope(k - 1, y + 0.5 * h * first)
            third = slope(k - 1, y + 0.5 * h * second)
            y = y + h * (first + 2 * second + 2 * third + slope(k - 2, y + h * third)) / 6
        error = max(np.max(np.abs(y[0] - mean[0]) / np.sqrt(variance[0])), np.max(np.abs(y[1] / variance[0] - 1)))
        hint = f"mean {_brief(y[0])} and deviation {_brief(np.sqrt(y[1]))} arrive, not {_brief(mean[0])} and "
        hint += f"{_brief(np.sqrt(variance[0]))}: look at {name}"
        yield Row(f"{name} takes the marginal at t_max to the data", float(error), INTEGRAL, hint)


_GAUSSIAN = {
    "the methods": _methods,
    "the kernel": _kernel,
    "float32": _numbers,
    "the prior": _prior_of_kernel,
    "the reverse drifts": _reverse,
    "the way back": _way_back,
}
_ANY = {
    "the methods": _methods,
    "float32": _numbers,
    "the prior": _prior_of_paths,
    "the reverse drifts": _reverse,
}
