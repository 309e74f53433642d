"""Do the reverse drifts match their formulas, and do they lead back to the data?

With the exact score of normal data they are linear, a(t) x + b(t), which two values of x determine. They take a normal
distribution N(μ, v) from t_max to t_min by

    dμ/dt = a μ + b,   dv/dt = 2 a v − g²  (the reverse SDE),   dv/dt = 2 a v  (the probability flow),  (7)

and it must arrive at the marginal there.
"""

from collections.abc import Iterator

import numpy as np

from sde_lib.check.case import PIECE, Case, brief, drifts_program
from sde_lib.check.report import EXACT, INTEGRAL, Row


def check_reverse(case: Case) -> Iterator[Row]:
    """Are the two reverse drifts f − g² score and f − ½ g² score?"""
    t = np.resize(case.times(100), PIECE)
    x, score = case.mean + (case.std + 1) * case.normal(PIECE), case.normal(PIECE)[::-1]
    values, g2 = case.run(drifts_program, x, t, score), case.at(t)["diffusion"] ** 2
    for name, factor, formula in (("reverse_drift", 1.0, "f − g² score"), ("flow_drift", 0.5, "f − ½ g² score")):
        got, drift = values[name], values["drift"]
        found = np.nanmedian((got - drift) / (g2 * score))
        hint = f"the score's factor is {found:.2f} g², and should be {-factor:.2f} g²: look at {name}"
        error = np.abs(got - (drift - factor * g2 * score)) / np.maximum(np.abs(drift) + np.abs(g2 * score), 1e-30)
        yield Row(f"{name} = {formula}", float(np.max(error)), EXACT, hint)


def check_return(case: Case) -> Iterator[Row]:
    """(7) by the Runge–Kutta method of fourth order, from a μ that is half a deviation off the data's mean."""
    nodes = case.times(PIECE // 6)
    t = np.insert(nodes, np.arange(1, len(nodes)), 0.5 * (nodes[1:] + nodes[:-1]))
    last, t = len(t) - 1, np.append(t, np.full(PIECE - len(t), t[-1]))
    std = np.where(case.std > 0, case.std, np.sqrt(np.mean(case.std**2)))
    c = case.at(t)
    mean = c["alpha"] * (case.mean + 0.5 * std)
    variance = np.broadcast_to((c["alpha"] * std) ** 2 + c["sigma"] ** 2, mean.shape)
    at_0, at_1 = (case.run(drifts_program, np.full(mean.shape, x), t, (mean - x) / variance) for x in (0.0, 1.0))
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
        hint = f"it arrives with mean {brief(y[0])} and deviation {brief(np.sqrt(y[1]))}, not {brief(mean[0])} and "
        hint += f"{brief(np.sqrt(variance[0]))}: look at {name}"
        yield Row(f"{name} takes the marginal at t_max to the data", float(error), INTEGRAL, hint)
