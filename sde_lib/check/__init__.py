"""Does a process agree with itself? `check_sde` measures, and names the method to look at.

A process states the same things several times. Each module here compares some of them, by equations numbered across all
three:

    kernel    α, σ, drift and diffusion, at single times and over all of them                 (1) to (3)
    prior     the marginal at t_max, the prior's draws and its density                        (4) to (6)
    reverse   the reverse drifts, and whether they lead back to the data                      (7)

`case` evaluates the process for them, `report` holds their results. `solver` has `check_solver`, for the order of a
solver and the distribution that it ends at.
"""

import math

import numpy as np

from sde_lib.check.case import BrokenError, Case, brief
from sde_lib.check.kernel import check_kernel, check_methods, check_numbers
from sde_lib.check.prior import check_prior_of_kernel, check_prior_of_paths
from sde_lib.check.report import Report as Report
from sde_lib.check.report import Row
from sde_lib.check.report import SDECheckError as SDECheckError
from sde_lib.check.reverse import check_return, check_reverse
from sde_lib.check.solver import SolverCheckError as SolverCheckError
from sde_lib.check.solver import SolverReport as SolverReport
from sde_lib.check.solver import check_solver as check_solver
from sde_lib.numbers import Allowed
from sde_lib.numbers import check_numbers as check_arguments
from sde_lib.sde import SDE

# Groups of comparisons. Each assumes that those before it passed.
_GAUSSIAN = {
    "the methods": check_methods,
    "the kernel": check_kernel,
    "float32": check_numbers,
    "the prior": check_prior_of_kernel,
    "the reverse drifts": check_reverse,
    "the return to the data": check_return,
}
_ANY = {
    "the methods": check_methods,
    "float32": check_numbers,
    "the prior": check_prior_of_paths,
    "the reverse drifts": check_reverse,
}


def check_sde(
    sde: SDE, *, shape: tuple[int, ...] | None = None, data=None, data_mean=0.0, data_std=1.0, seed=0, verbose=True
) -> Report:
    """Measures whether the methods of `sde` agree with each other, and with data of this mean and standard deviation.

    `shape` is an event's; by default it is that of the process's coefficients, or (4,) where coordinates are alike.
    Data are assumed to be normal, with numbers for mean and deviation, or arrays that broadcast to the shape. `data`
    [N, *shape], draws of x_0, replace the shape and both moments; simulated paths then start from them.

    Any SDE is accepted; one with `alpha` and `sigma` is checked as one with a linear drift. Takes seconds on a CPU,
    with float64 enabled or not. Prints the report if `verbose`. Raises SDECheckError, which names the methods to look
    at. The groups of comparisons build on each other, so the first group with a failure is the last one made.
    """
    check_arguments("check_sde", locals(), data=Allowed(), data_mean=Allowed(), data_std=Allowed(at_least=0))
    case = Case.of(sde, shape, data, data_mean, data_std, seed)
    rows, cause, groups = [], None, dict(_GAUSSIAN if case.gaussian else _ANY)
    with np.errstate(all="ignore"):
        while groups and all(row.ok for row in rows):
            group = groups.pop(next(iter(groups)))
            try:
                rows.extend(group(case))
            except BrokenError as error:
                rows.append(Row(f"{error.method} works", math.inf, 0.0, f"{error}: look at {error.method}"))
                cause = error.__cause__
    moments = f"data of mean {brief(case.mean)} and deviation {brief(case.std)}"
    report = Report(f"{type(sde).__name__}, event shape {case.shape}, {moments}", tuple(rows), tuple(groups))
    if verbose:
        print(report)
    if report.failed:
        raise SDECheckError(report) from cause
    return report
