"""The result of a check: a row for each comparison, its tolerance, and the error that names the method to look at."""

from typing import NamedTuple

EXACT = 1e-4  # for equalities up to rounding
DERIVATIVE = 2e-3  # for comparisons with a difference quotient
INTEGRAL = 1e-2  # for integrals over [t_min, t_max]
START = 0.01  # how far α(t_min) may be from 1
NOISE = 0.05  # σ(t_min), in standard deviations of the data
NATS = 0.01  # KL per dimension between marginal and prior: deviations 10 % apart, or means 0.14 deviations
LEFT = 0.01  # what is left of the data at t_max, in their standard deviations or in those of the marginal
LOUD = 10.0  # noise of this many deviations of the data hides them where they do not shrink, as in VE
ENERGY = 0.005  # energy distance (6): deviations 25 % apart
ERRORS = 5.0  # standard errors that a mean over draws may be off


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
    """The comparisons made, in order, and the groups of them not reached because one before them failed."""

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
    """The process contradicts itself: the message has the rows that failed, and `report` has all rows."""

    def __init__(self, report: Report):
        self.report = report
        super().__init__("\n".join([f"{report.title} does not agree with itself:", *map(str, report.failed)]))
