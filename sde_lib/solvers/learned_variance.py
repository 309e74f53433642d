"""Ancestral steps whose variance the network predicts, next to F (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).

The variance of p(x_s | x_t) lies between that of the posterior given x_0 and that of the forward step (Ho et al. 2020,
section 3.2). The network gives the fraction ν of the way, on the scale of logarithms, for each coordinate:

    log Σ = ν log σ_ts² + (1 − ν) log (σ_s σ_ts/σ_t)²,   ν = (v + 1)/2                                (1)

where v are the channels of its output after those of F. `ScoreModel` gives them to a solver as `score_fn.variance`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from sde_lib.noise import normal_like
from sde_lib.sde import expand
from sde_lib.solvers.base import KernelSolver, SolverState
from sde_lib.solvers.predictors import posterior_std, transition_std


def with_variance(score_fn: Callable, variance: Callable) -> Any:
    """The score with the attribute `variance`: (x [B, ...], t) → v [B, ...], without channels if none is learned."""
    scored: Any = partial(score_fn)
    scored.variance = variance
    return scored


class LearnedVarianceAncestral(KernelSolver):
    """The posterior step of DDPM with the variance (1), for a network with a learned variance.

    XLA evaluates the network once for both. Raises ValueError for a score without a learned variance.
    """

    @property
    def nfe(self) -> int:
        return 1

    def step(self, keys, state, t, s, sde, score_fn):
        x, v = state.x, getattr(score_fn, "variance", lambda x, t: x[..., :0])(state.x, t)
        if v.shape != x.shape:
            raise ValueError(
                "LearnedVarianceAncestral requires a network with learned_variance=True; the others have Ancestral"
            )
        alpha_ts, sigma_ts = (expand(c, x) for c in sde.transition(t, s))
        mean = (x + sigma_ts**2 * score_fn(x, t)) / alpha_ts
        large, small = (expand(std(sde, t, s), x) for std in (transition_std, posterior_std))
        std = small * (large / small) ** (0.5 * (v + 1))
        return SolverState(mean + std * normal_like(keys, x), mean)
