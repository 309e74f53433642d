"""The figures that an experiment must reach, as data of its config, and whether a report reached them.

config.eval.expected.distance = spec(Expected, figure="frechet.ratio", at_most=1.2)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from eval_lib.metrics import figure_name


@dataclass(frozen=True)
class Expected:
    """One figure: within `tolerance` of `value`, or between bounds.

    `figure` is a figure's key in a report: that of a metric (FID) or its name in the report's table (Fréchet distance
    (raw data)), or the path to a number (frechet.ratio, eval_loss, bits.flow.mean). Over several seeds the mean counts.
    `source` says who published the figure. ValueError for a value without tolerance, and for a figure without value and
    bounds.
    """

    figure: str
    value: float | None = None
    tolerance: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != (self.tolerance is None):
            raise ValueError(
                f"{self.figure}: expected value and tolerance together, got value={self.value}, "
                f"tolerance={self.tolerance}"
            )
        if self.value is None and self.at_least is None and self.at_most is None:
            raise ValueError(f"{self.figure}: expected a value with its tolerance, or at_least or at_most")

    def passes(self, measured: float) -> bool:
        """Whether the measured figure is as expected; one that is not finite never is."""
        near = self.value is None or self.tolerance is None or abs(measured - self.value) <= self.tolerance
        above = self.at_least is None or measured >= self.at_least
        below = self.at_most is None or measured <= self.at_most
        return math.isfinite(measured) and near and above and below

    def __str__(self) -> str:
        near = [] if self.value is None else [f"{self.value:g} ± {self.tolerance:g}"]
        above = [] if self.at_least is None else [f"at least {self.at_least:g}"]
        below = [] if self.at_most is None else [f"at most {self.at_most:g}"]
        return ", ".join(near + above + below) + (f" ({self.source})" if self.source else "")


class Comparison(NamedTuple):
    """An expected figure with the measured one: mean, and standard deviation over seeds (None for one seed)."""

    name: str
    expected: Expected
    mean: float
    sd: float | None

    @property
    def passed(self) -> bool:
        return self.expected.passes(self.mean)


def compare(expected: Mapping[str, Expected], report: Mapping[str, Any]) -> list[Comparison]:
    """Each expected figure with that of a report of `run_lib.evaluate`.

    ValueError naming a figure that the report does not have.
    """
    return [Comparison(name, one, *figure_of(report, one.figure)) for name, one in expected.items()]


def figure_of(report: Mapping[str, Any], figure: str) -> tuple[float, float | None]:
    """A figure's mean and standard deviation over seeds; None as the latter for a number that has no seeds."""
    metrics = report.get("metrics", {})
    figures, protocol = metrics.get("figures", {}), metrics.get("protocol")
    named = {key if protocol is None else figure_name(key, protocol): value for key, value in figures.items()}
    over_seeds = {**report.get("over_seeds", {}), **figures, **named}
    if figure in over_seeds:
        return over_seeds[figure]["mean"], over_seeds[figure]["sd"]
    numbers = flat_numbers(report)
    if figure not in numbers:
        shown = {*report.get("over_seeds", {}), *named, *flat_numbers({**report, "metrics": {}})}
        raise ValueError(f"the report has no figure {figure!r}; it has {', '.join(sorted(shown))}")
    return numbers[figure], None


def flat_numbers(report: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested dicts, by their keys joined by dots."""
    found: dict[str, float] = {}
    for name, value in report.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = float(value)
    return found


def markdown(rows: list[Comparison], seeds: int, protocol: Mapping[str, str] | None = None) -> str:
    """A table: figure, expected, measured, pass or fail.

    With the `protocol` of the features, figures are named as in the report (`figure_name`), else by their keys.
    """
    lines = [f"| figure | expected | measured, mean ± sd of {seeds} seeds | |", "|---|---|--:|---|"]
    for row in rows:
        figure = row.expected.figure
        name = figure if protocol is None else figure_name(figure, protocol)
        spread = "" if row.sd is None else f" ± {row.sd:.2g}"
        verdict = "pass" if row.passed else "FAIL"
        lines.append(f"| {name} | {row.expected} | {row.mean:.4g}{spread} | {verdict} |")
    return "\n".join(lines) + "\n"
