"""Do α, σ, drift and diffusion agree with each other? And are they accurate in float32?

With a linear drift, the kernel N(α x_0, σ² I) must be the one that drift and diffusion generate (Särkkä & Solin 2019,
eq. 5.50 and 5.51):

    f = d log α/dt,                                                                                     (1)
    g²/σ² = 2 (d log σ/dt − f) = −dλ/dt.                                                                (2)

The derivatives are differences of fourth order in float64, independent of how the process derives its own. The same is
compared over the whole of [t_min, t_max], since a table that is read by index satisfies (1) and (2) at almost every t:

    ∫ f dt = log α(t_max)/α(t_min),   ∫ g²/σ² dt = λ(t_min) − λ(t_max).                                 (3)
"""

from collections.abc import Iterator

import numpy as np

from sde_lib.check.case import (
    PIECE,
    BrokenError,
    Case,
    alpha_ts_program,
    brief,
    drifts_program,
    relative,
    rows_program,
    worst,
)
from sde_lib.check.report import DERIVATIVE, EXACT, INTEGRAL, NOISE, START, Row


def check_methods(case: Case) -> Iterator[Row]:
    """Can the methods be called as solvers and losses do: under jit, with t a scalar or [B], and x [B, *event]?"""
    low, high = case.interval
    if not 0 <= low < high:
        raise BrokenError("t_min and t_max", f"expected 0 ≤ t_min < t_max; got {low:.3g} and {high:.3g}")
    count = next(n for n in (3, 5, 7, 11, 13, 17) if n not in case.shape)  # a batch that fits no axis of an event
    t = np.linspace(low, high, count + 2)[1:-1]
    batched, single = case.run(rows_program, case.mean + case.std * case.normal(count), t, x64=False)
    errors = {name: relative(*(np.nan_to_num(values[name]) for values in (batched, single))) for name in single}
    wrong = ", ".join(name for name in errors if not errors[name] <= EXACT)
    hint = f"a row must depend on its own x and t alone (`expand` broadcasts a coefficient to x): look at {wrong}"
    yield Row("row i does not depend on the rest of its batch", max(errors.values()), EXACT, hint)


def check_kernel(case: Case) -> Iterator[Row]:
    """Do α and σ match drift and diffusion?"""
    t = case.times(100)
    c = case.at(t)
    for name in ("alpha", "sigma"):
        bad = ~(np.isfinite(c[name]) & (c[name] > 0))
        k = worst(bad)
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


def _ends(case: Case, t: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Iterator[Row]:
    start = f"at t_min = {case.interval[0]:.3g}: look at"
    hint = f"the data are multiplied by {brief(alpha[0])} {start} alpha, or at t_min"
    yield Row("alpha(t_min) = 1", float(np.max(np.abs(alpha[0] - 1))), START, hint)
    hint = f"noise of deviation {brief(sigma[0])} is left in the data {start} sigma, or at t_min"
    left = np.sqrt(np.mean(sigma[0] ** 2) / np.mean(case.std**2))
    yield Row("sigma(t_min) is small compared with the data", float(left), NOISE, hint)
    apart = np.diff(t) > 1e-5 * t[1:]
    rises = ~(np.diff(2 * np.log(alpha / sigma), axis=0)[apart] < 0)
    hint = f"it does not fall at t = {t[1:][apart][worst(rises)]:.3g}: look at alpha and sigma"
    yield Row("λ = log α²/σ² falls", float(np.mean(rises)), 0.0, hint)


def _moment_equations(case: Case) -> Iterator[Row]:
    """(1), and (2) with the process's own f or, if that is wrong, with the one derived from α."""
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
        """Whether these satisfy (2) in place of g²/σ² and d log σ/dt."""
        return np.max(np.abs(g_squared - 2 * (slope - f)) / np.abs(fall)) <= 5 * DERIVATIVE

    if explains(g / sigma**2, dlog_sigma):
        hint = "diffusion(t) is g², and should be its root: look at diffusion"
    elif explains(g**2 / sigma, 0.5 * dlog_sigma):
        hint = "sigma(t) is σ², and should be its root: look at sigma"
    else:
        what = _compared(g**2, 2 * sigma**2 * (dlog_sigma - f), error, t, "dσ²/dt − 2 f σ²")
        hint = f"diffusion(t)² is {what}: look at diffusion, or at sigma"
    yield Row("diffusion² = dσ²/dt − 2 f σ²", float(np.max(error)), DERIVATIVE, hint)


def _log_derivatives(case: Case, t: np.ndarray) -> Iterator[np.ndarray]:
    """d log α/dt and d log σ/dt by central differences of fourth order.

    At each t the step is the one that agrees best with the next smaller step, a tenth of it. This balances rounding and
    curvature.
    """
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


def _integrals(case: Case, t: np.ndarray, c: dict) -> Iterator[Row]:
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
        ends, center = function(c), function(middle)
        length = np.diff(t).reshape((-1,) + (1,) * (center.ndim - 1))
        integral = np.sum(length * (ends[1:] + 4 * center + ends[:-1]) / 6, axis=0)
        change = antiderivative[-1] - antiderivative[0]
        error = np.max(np.abs(integral - change) / np.maximum(1.0, np.abs(change)))
        hint = f"{brief(integral)} is not {brief(change)}, though the rates match the slopes at single times: "
        hint += "look at alpha and sigma: do they change in steps, as a table that is read by index?"
        yield Row(name, float(error), INTEGRAL, hint)


def _consequences(case: Case) -> Iterator[Row]:
    """Methods that follow from α, σ and f."""
    t = np.resize(case.times(100), PIECE)
    s = np.minimum(t, t[::-1])
    x = case.mean + (case.std + 1) * case.normal(PIECE)
    c = case.at(t)
    drift, rate = case.run(drifts_program, x, t, x)["drift"], c["drift_rate"]
    rate_alone = relative(drift, rate + 0 * x) <= EXACT
    hint = "drift(x, t) is the rate alone, not times x" if rate_alone else "the drift is not f(t) x"
    yield Row("drift(x, t) = f(t) x", relative(drift, rate * x), EXACT, f"{hint}: look at drift")
    error = np.max(np.abs(case.run(alpha_ts_program, t, s, x) * case.at(s)["alpha"] / c["alpha"] - 1))
    yield Row("alpha_ts(t, s) = α(t)/α(s)", float(error), EXACT, "look at alpha_ts")
    if "log_snr" in c:
        error = np.max(np.abs(c["log_snr"] - 2 * np.log(c["alpha"] / c["sigma"])))
        yield Row("log_snr = log α²/σ²", float(error), EXACT, f"it is off by up to {error:.3g}: look at log_snr")


def check_numbers(case: Case) -> Iterator[Row]:
    """Is float32 enough: finite on all of [t_min, t_max], and accurate in its first half, where kernels cancel?"""
    t = case.times(100)
    late = (t > np.mean(case.interval)).reshape((-1,) + (1,) * len(case.shape))
    singles, doubles = case.at(t, x64=False), case.at(t)
    for name in (name for name in doubles if name != "log_snr"):
        single, double = singles[name], doubles[name]
        scale = np.maximum(np.abs(double), 1e-30)
        if name == "drift_rate":  # as in (1), f is compared with dλ/dt
            scale = scale + 0.02 * (doubles["diffusion"] / doubles["sigma"]) ** 2
        lowest = {"alpha": 1e-38, "sigma": 1e-38, "diffusion": 0.0}.get(name, -np.inf)
        error = np.where(late, 0.0, np.abs(single - double) / scale)
        error = np.where(np.isfinite(single) & (single >= lowest), error, np.inf)
        k = worst(error)
        got, expected = np.min(single[k]), np.min(double[k])
        hint = f"it is {got:.5g}, and {expected:.5g} in float64, at t = {t[k]:.3g}: look at {name}"
        if np.isfinite(expected) and expected >= lowest:
            hint += "; −expm1(−x) keeps the digits that 1 − exp(−x) loses"
        yield Row(f"{name} in float32", float(np.max(error)), EXACT, hint)


def _compared(got: np.ndarray, expected: np.ndarray, error: np.ndarray, t: np.ndarray, what: str) -> str:
    """'2.00 times what at every t', or the value and the expected value at the worst t."""
    got, expected, error = np.broadcast_arrays(got, expected, error)
    k = worst(error)
    j = np.argmax(np.nan_to_num(error[k], nan=np.inf))
    got_k, expected_k = got[k].flat[j], expected[k].flat[j]
    difference = np.abs(got * expected_k - expected * got_k)
    if np.isfinite(got_k) and expected_k and np.all(difference <= 0.02 * np.abs(expected * got_k)):
        return f"{got_k / expected_k:.2f} times {what} at every t"
    times = f" ({got_k / expected_k:.2f} times)" if expected_k else ""
    return f"{got_k:.3g} where {what} is {expected_k:.3g}{times}, at t = {t[k]:.3g}"
