"""y ← f(y, t) as a solver of diffrax: for its loop, which ends early and stores few states to differentiate it.

A module of its own, imported when the loop is traced: diffrax takes half a second to import.
"""

from typing import ClassVar

import diffrax


class Iteration(diffrax.AbstractSolver):
    """One call of the vector field per step, whose value is the next state."""

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms):
        return 1

    def init(self, terms, t0, t1, y0, args):
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1 = terms.vf(t0, y0, args)
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful
