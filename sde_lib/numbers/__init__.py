"""Numbers are checked where they are given: the error names the place, the value and what is allowed.

Only concrete numbers are checked: Python's, NumPy's, arrays of JAX, and tuples of these. A tracer, a shape, None or
another object passes, so nothing is checked under jit. NaN is refused everywhere, infinity unless it is allowed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

Bound = float | int | str | None
"""A number, the name of another number of the same place, or None."""


class Allowed(NamedTuple):
    """The numbers that a field or an argument may be; of an array, each entry."""

    above: Bound = None
    at_least: Bound = None
    below: Bound = None
    at_most: Bound = None
    finite: bool = True
    whole: bool = False

    def bounds(self) -> list[tuple[Any, str, Bound]]:
        """(comparison, its sign, bound) of those that are set."""
        signs = ((np.greater, ">"), (np.greater_equal, ">="), (np.less, "<"), (np.less_equal, "<="))
        return [
            (compare, sign, bound) for (compare, sign), bound in zip(signs, self[:4], strict=True) if bound is not None
        ]

    def describe(self, name: str) -> str:
        """For the error: `a whole number num_steps >= 1`."""
        kind = "a whole number" if self.whole else "a finite number" if self.finite else "a number"
        return f"{kind} {name}" + " and".join(f" {sign} {bound}" for _, sign, bound in self.bounds())


AT_LEAST_ONE = Allowed(at_least=1, whole=True)
"""1, 2, 3, …: a count."""
POSITIVE = Allowed(above=0)
"""Finite numbers above 0."""


def check_number(place: str, name: str, value: Any, allowed: Allowed, others: Mapping[str, Any] | None = None) -> None:
    """Raises ValueError of one line if `value` is a number that is not allowed, or a dict with one.

    `others` has the bounds with names.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            check_number(place, f"{name}[{key!r}]", one, allowed, others)
        return
    found = concrete(value)
    if found is None:
        return
    wrong, shown = ~np.isfinite(found) if allowed.finite else np.isnan(found), ""
    if allowed.whole and np.asarray(value).dtype.kind not in "iu":
        wrong = np.ones_like(wrong)
    for compare, _, bound in allowed.bounds():
        limit = concrete((others or {}).get(bound) if isinstance(bound, str) else bound)
        if limit is not None:
            outside = ~compare(found, limit)
            wrong = wrong | outside
            if isinstance(bound, str) and np.any(outside):
                shown += f" and {bound}={_at(limit, outside)}"
    if np.any(wrong):
        index = np.unravel_index(np.argmax(wrong), np.shape(wrong)) if found.ndim else ()
        where = f"[{', '.join(str(i) for i in index)}]" if index else ""
        got = f"{name}{where}={_at(found, wrong)}{shown}"
        raise ValueError(f"{place}: expected {allowed.describe(name)}; got {got}")


def is_allowed(value: Any, allowed: Allowed) -> bool:
    """Whether `value` is within the bounds that are numbers, or is no number."""
    try:
        check_number("", "", value, allowed)
    except ValueError:
        return False
    return True


def check_numbers(place: str, given: Mapping[str, Any], **rules: Allowed) -> None:
    """`check_number` of each rule's name in `given`, such as the arguments of a function."""
    for name, allowed in rules.items():
        check_number(place, name, given[name], allowed, given)


def concrete(value: Any) -> np.ndarray | None:
    """A number or an array of numbers in float64; None for anything else, and for tracers."""
    if isinstance(value, Tracer):
        return None
    if isinstance(value, tuple | list):
        parts = [part for part in map(concrete, value) if part is not None]
        same = len(parts) == len(value) and len({part.shape for part in parts}) == 1
        return np.asarray(parts) if same else None
    if isinstance(value, jax.Array) and not (value.is_fully_addressable and not value.is_deleted()):
        return None
    numeric = isinstance(value, bool | int | float) or jax.numpy.issubdtype(getattr(value, "dtype", object), np.number)
    return np.asarray(value).astype(np.float64) if numeric and not isinstance(value, jax.ShapeDtypeStruct) else None


def _at(values: np.ndarray, wrong: Any) -> str:
    """The first entry that is wrong; `values` broadcasts against `wrong`."""
    return f"{np.broadcast_to(values, np.shape(wrong)).flat[np.argmax(wrong)]:.8g}"
