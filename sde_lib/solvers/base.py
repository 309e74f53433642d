"""A solver is one step of the reverse process, from time t to an earlier time s.

The loop over a time grid exists once, in `sde_lib.sampling`. A solver does not depend on the grid: its only step size
is s − t. Each step has its own keys, one per sample. What a solver stores between steps is in `memory`.
"""

import abc
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
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


def advance(solver: Solver, keys, state: SolverState, t, s, sde, score_fn) -> SolverState:
    """`solver.step`. Raises TypeError of one line if the result is not a state like the one before."""
    found = solver.step(keys, state, t, s, sde, score_fn)
    require_state(f"{type(solver).__name__}.step", found, state.x, state.memory)
    return found


def require_state(place: str, state: Any, x: Float[Array, "B ..."], memory: Any) -> None:
    """Raises TypeError unless `state` is a SolverState with arrays like x, and a memory like `memory`."""
    if not isinstance(state, SolverState):
        got = f"an array of shape {jnp.shape(state)}" if hasattr(state, "shape") else type(state).__name__
        raise TypeError(f"{place} returned {got}: expected SolverState(x, mean, memory); write SolverState(x, x)")
    for name in ("x", "mean"):
        found = getattr(state, name)
        if jnp.shape(found) != x.shape or jnp.asarray(found).dtype != x.dtype:
            got = f"{jnp.asarray(found).dtype} of shape {jnp.shape(found)}"
            raise TypeError(f"{place} returned {name} of type {got}: expected x's, {x.dtype} of shape {x.shape}")
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (state.memory, memory)]
    if jax.tree.structure(state.memory) != jax.tree.structure(memory) or shapes[0] != shapes[1]:
        raise TypeError(
            f"{place} returned a memory of shapes {shapes[0]}: expected those of `init`, {shapes[1]}; write "
            f"SolverState(x, mean, memory), and give the first memory in `init`"
        )


class KernelSolver(Solver[GaussianSDE]):
    """A solver that uses the kernel p(x_t | x_s), and so requires a GaussianSDE."""

    @property
    def requires(self) -> tuple[str, ...]:
        return KERNEL
