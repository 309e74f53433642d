"""Predictor–corrector sampling: steps toward the data, and Langevin steps that keep the marginal correct.

A corrector step at a fixed time (Song et al. 2021, algorithms 2 to 5) is, with step size h and z standard normal,

    x ← x + h score(x, t) + √(2h) z.                                                                (1)

With a the alpha_ts of the grid's interval (α_ts for VP as published, 1 for VE), r the signal-to-noise ratio `snr`, and
norms over a sample's coordinates,

    Langevin, `batch` norm      h = 2 a² (r mean‖z‖ / mean‖score‖)²      means over the batch                (2)
    Langevin, `expected` norm   h = 2 a² (r σ)²                          ‖z‖/‖score‖ at its expectation     (3)
    annealed Langevin           h = 2 a² (r σ)²                                                           (4)

(2) is algorithms 4 and 5 as published: each sample's step depends on the others in its batch. (3) uses the expected
norms under the kernel, E‖z‖² = d and E‖ε/σ‖² = d/σ². Samples stay independent, and the step is known in advance. It
coincides with (4), the step of Song & Ermon (2019, 2020) with a scale proportional to σ.
"""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.noise import fold, normal_like
from sde_lib.sde import expand
from sde_lib.solvers.base import Solver, SolverState, advance, require_state
from sde_lib.solvers.predictors import ReverseDiffusion


class Corrector(PyTreeNode, abc.ABC):
    """Moves at a fixed time that leave the marginal there unchanged."""

    @property
    def requires(self) -> tuple[str, ...]:
        """The methods that an SDE must have, beyond drift, diffusion and prior."""
        return ()

    @abc.abstractmethod
    def correct(self, keys, state, time, t, s, sde, score_fn) -> SolverState:
        """The state after moves at `time`, which is one of the ends t > s of the grid's interval."""

    @property
    @abc.abstractmethod
    def nfe(self) -> int:
        """Score evaluations in one call of `correct`."""


def langevin_move(state: SolverState, score, step_size, z) -> SolverState:
    """(1)."""
    h = expand(step_size, state.x)
    mean = state.x + h * score
    return SolverState(mean + jnp.sqrt(2 * h) * z, mean, state.memory)


def mean_norm(x: Float[Array, "B ..."]) -> Float[Array, ""]:
    """The mean over the batch of the samples' Euclidean norms."""
    return jnp.mean(jnp.linalg.norm(x.reshape(x.shape[0], -1), axis=-1))


NORMS = ("expected", "batch")


class Langevin(Corrector):
    """Langevin dynamics with a step set by the signal-to-noise ratio: norm "expected" is (3), "batch" is (2).

    Raises ValueError for another norm.
    """

    snr: Scalar = number(0.16, above=0)
    steps: int = static(1, at_least=0)
    norm: str = static("expected")

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"Langevin's norm is one of {', '.join(NORMS)}; got {self.norm!r}")

    @property
    def requires(self) -> tuple[str, ...]:
        return () if self.norm == "batch" else ("sigma",)

    @property
    def coupled(self) -> bool:
        return self.norm == "batch"

    @property
    def nfe(self) -> int:
        return self.steps

    def correct(self, keys, state, time, t, s, sde, score_fn):
        scale = 2 * sde.alpha_ts(t, s) ** 2
        for i in range(self.steps):
            score, z = score_fn(state.x, time), normal_like(fold(keys, i), state.x)
            ratio = mean_norm(z) / mean_norm(score) if self.norm == "batch" else sde.sigma(time)
            ratio = jnp.asarray(ratio, jnp.result_type(scale))
            state = langevin_move(state, score, scale * (self.snr * ratio) ** 2, z)
        return state


class AnnealedLangevin(Corrector):
    """Annealed Langevin dynamics: the step is proportional to σ² (4)."""

    snr: Scalar = number(0.16, above=0)
    steps: int = static(1, at_least=0)

    @property
    def requires(self) -> tuple[str, ...]:
        return ("sigma",)

    @property
    def nfe(self) -> int:
        return self.steps

    def correct(self, keys, state, time, t, s, sde, score_fn):
        langevin = Langevin(snr=self.snr, steps=self.steps, norm="expected")
        return langevin.correct(keys, state, time, t, s, sde, score_fn)


class NoCorrector(Corrector):
    """Leaves the state unchanged."""

    @property
    def nfe(self) -> int:
        return 0

    def correct(self, keys, state, time, t, s, sde, score_fn):
        return state


class PredictorCorrector(Solver):
    """A predictor's step and a corrector's, in one of two orders.

    corrector_first (as in the published code): correct at t, then predict from t to s.
    Otherwise (Song et al. 2021, algorithm 1): predict from t to s, then correct at s.
    """

    predictor: Solver = ReverseDiffusion()
    corrector: Corrector = Langevin()
    corrector_first: bool = static(True)

    @property
    def requires(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.predictor.requires, *self.corrector.requires)))

    @property
    def coupled(self) -> bool:
        return getattr(self.corrector, "coupled", False)

    @property
    def nfe(self) -> int:
        return self.predictor.nfe + self.corrector.nfe

    def init(self, x):
        return self.predictor.init(x)

    def step(self, keys, state, t, s, sde, score_fn):
        predict_keys, correct_keys = fold(keys, 0), fold(keys, 1)
        if self.corrector_first:
            state = self._corrected(correct_keys, state, t, t, s, sde, score_fn)
            return advance(self.predictor, predict_keys, state, t, s, sde, score_fn)
        state = advance(self.predictor, predict_keys, state, t, s, sde, score_fn)
        return self._corrected(correct_keys, state, s, t, s, sde, score_fn)

    def _corrected(self, keys, state, time, t, s, sde, score_fn):
        found = self.corrector.correct(keys, state, time, t, s, sde, score_fn)
        require_state(f"{type(self.corrector).__name__}.correct", found, state.x, state.memory)
        return found
