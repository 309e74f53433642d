"""A solver is one step of the reverse process, from time t to an earlier time s.

The loop over a time grid exists once, in `sde_lib.sampling`. A solver does not depend on the grid: its only step size
is s − t. Each step has its own keys, one per sample. What a solver stores between steps is in `memory`.
"""

import abc
from typing import Any, Generic, NamedTuple

from jaxtyping import Array, Float, Key

from sde_lib.node import PyTreeNode
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import KERNEL as KERNEL
from sde_lib.sde import GaussianSDE, Process, Time


class SolverState(NamedTuple):
    """x: the samples [B, ...]. mean: x before the last step's noise. memory: what a multistep solver stores."""

    x: Float[Array, "B ..."]
    mean: Float[Array, "B ..."]
    memory: Any = None


class Solver(PyTreeNode, abc.ABC, Generic[Process]):
    """One reverse step of an SDE."""

    @property
    def requires(self) -> tuple[str, ...]:
        """The methods that an SDE must have, beyond drift, diffusion and prior."""
        return ()

    def init(self, x: Float[Array, "B ..."]) -> SolverState:
        """The state before the first step; multistep solvers add their memory."""
        return SolverState(x, x)

    @abc.abstractmethod
    def step(
        self, keys: Key[Array, " B"], state: SolverState, t: Time, s: Time, sde: Process, score_fn: ScoreFn
    ) -> SolverState:
        """From t to s ≤ t."""

    @property
    @abc.abstractmethod
    def nfe(self) -> int:
        """Score evaluations in one step."""


class KernelSolver(Solver[GaussianSDE]):
    """A solver that uses the kernel p(x_t | x_s), and so requires a GaussianSDE."""

    @property
    def requires(self) -> tuple[str, ...]:
        return KERNEL
