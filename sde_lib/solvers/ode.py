"""Fixed steps along the probability-flow ODE dx/dt = f(x, t) − ½ g(t)² score (Song et al. 2021, eq. 13)."""

from sde_lib.sde import expand
from sde_lib.solvers.base import Solver, SolverState


def flow(x, t, sde, score_fn):
    """The right-hand side of the probability-flow ODE."""
    return sde.flow_drift(x, t, score_fn(x, t))


class Euler(Solver):
    """x_s = x_t + (s − t) F(x_t, t): first order."""

    @property
    def nfe(self) -> int:
        return 1

    def step(self, keys, state, t, s, sde, score_fn):
        x = state.x + expand(s - t, state.x) * flow(state.x, t, sde, score_fn)
        return SolverState(x, x)


class Heun(Solver):
    """x_s = x_t + ½ (s − t) [F(x_t, t) + F(x_t + (s − t) F(x_t, t), s)]: the trapezoidal rule, second order.

    Karras et al. 2022, algorithm 1, for any drift and diffusion, in the variable t.
    """

    @property
    def nfe(self) -> int:
        return 2

    def step(self, keys, state, t, s, sde, score_fn):
        x, dt = state.x, expand(s - t, state.x)
        now = flow(x, t, sde, score_fn)
        then = flow(x + dt * now, s, sde, score_fn)
        x = x + 0.5 * dt * (now + then)
        return SolverState(x, x)
