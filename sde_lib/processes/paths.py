"""Processes without a kernel: dx = f(x, t) dt + g(t) dw with any drift, by simulation.

Paths are simulated from x_0 to each sample's own time t in N steps of h = t/N, by Heun's rule for the drift,

    y = x + h f(x, u) + g √h z,    x ← x + ½ h [f(x, u) + f(y, u + h)] + g √h z,    g = g(u + ½ h),        (1)

of weak order 2, since the noise does not depend on x (Kloeden & Platen 1992, section 15.1).
"""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sde_lib.exact import GaussianMixture
from sde_lib.node import PyTreeNode, Scalar, number
from sde_lib.noise import fold, normal_like, sample_keys
from sde_lib.numbers import AT_LEAST_ONE, check_number, check_numbers
from sde_lib.parameterization import Coefficients, NoiseLabel, Parameterization
from sde_lib.processes.coefficients import accumulated_noise_std
from sde_lib.sde import SDE, Coefficient, Time, expand, per_time


class NonlinearSDE(SDE):
    """A process specified by `drift(x, t)` and `diffusion(t)`, with a mixture of normals as its prior.

    The prior is given, or fitted to simulated paths by `fit_prior`. A subclass with a known prior defines
    `prior_sample` and `prior_logp` instead of `prior`.
    """

    prior: GaussianMixture | None = None

    @abc.abstractmethod
    def drift(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        """f(x, t), of x's shape; t is a scalar or [B]."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Coefficient:
        """g(t)."""

    def prior_sample(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        return self._prior(shape).sample(keys)

    def prior_logp(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        return self._prior(x.shape[1:]).log_prob(x)

    def _prior(self, shape: tuple[int, ...]) -> GaussianMixture:
        if self.prior is None:
            raise ValueError(f"{type(self).__name__} has no prior: fit one with fit_prior(sde, x0), or pass prior=")
        found = jnp.shape(self.prior.means)[1:]
        if found != tuple(shape):
            raise ValueError(f"the prior of {type(self).__name__} has event shape {found}; expected {tuple(shape)}")
        return self.prior


class LogPathNoise(PyTreeNode):
    """c_noise = scale · log √(∫₀ᵗ g²): replaces LogSigma for processes without a kernel."""

    scale: Scalar = number(1.0)

    def __call__(self, sde: SDE, t: Time) -> Coefficient:
        return self.scale * jnp.log(per_time(accumulated_noise_std(sde, t), t))


class PredictPathScore(Parameterization):
    """score = 2 f(x, t)/g² + F/√(∫₀ᵗ g²), for processes without a kernel.

    Where f is a gradient, the first term is the score of the stationary density, p ∝ exp(2 ∫f/g²), so that F → 0 as the
    process converges. Elsewhere it is a stable start. The first term alone makes the reverse drift −f: a sample in the
    tails, where the network has had no data, is pulled back as strongly as in the forward process. σ is unknown, and
    the accumulated noise √(∫₀ᵗ g²) replaces it. The two agree while t is small and the score is large.
    """

    c_noise: NoiseLabel = LogPathNoise()

    def __call__(self, sde: SDE, t: Time) -> Coefficients:
        return Coefficients(
            0.0, 1 / accumulated_noise_std(sde, t), 1.0, self.c_noise(sde, t), 2 / sde.diffusion(t) ** 2
        )


def simulate(
    keys: Key[Array, " B"], sde: SDE, x0: Float[Array, "B ..."], t: Time, num_steps: int = 64
) -> Float[Array, "B ..."]:
    """x_t [B, ...] by (1) in num_steps steps, from x_0 to each sample's own t.

    Row i is a function of x0[i], t[i] and keys[i].
    """
    check_number("simulate", "num_steps", num_steps, AT_LEAST_ONE)

    def step(x, k):
        return heun_step(fold(keys, k), sde, x, t * (k.astype(x.dtype) / num_steps), t / num_steps), None

    return jax.lax.scan(step, x0, jnp.arange(num_steps))[0]


def simulate_path(
    keys: Key[Array, " B"], sde: SDE, x0: Float[Array, "B ..."], times: Float[Array, " N"], substeps: int = 8
) -> Float[Array, "N B ..."]:
    """The path at the increasing `times`, from x_0 at times[0], by (1) in `substeps` steps per interval."""
    check_number("simulate_path", "substeps", substeps, AT_LEAST_ONE)

    def leg(x, interval):
        k, start, length = interval

        def step(i, x):
            u = start + length * (i.astype(x.dtype) / substeps)
            return heun_step(fold(fold(keys, k), i), sde, x, u, length / substeps)

        x = jax.lax.fori_loop(0, substeps, step, x)
        return x, x

    legs = jnp.arange(times.shape[0] - 1), times[:-1], jnp.diff(times)
    return jnp.concatenate([x0[None], jax.lax.scan(leg, x0, legs)[1]])


def heun_step(keys: Key[Array, " B"], sde: SDE, x: Float[Array, "B ..."], u: Time, h: Time) -> Float[Array, "B ..."]:
    """(1), from time u to u + h."""
    noise = expand(sde.diffusion(u + 0.5 * h) * jnp.sqrt(h), x) * normal_like(keys, x)
    now = sde.drift(x, u)
    then = sde.drift(x + expand(h, x) * now + noise, u + h)
    return x + 0.5 * expand(h, x) * (now + then) + noise


class PriorMisfit(NamedTuple):
    """How far a prior is from x at t_max.

    `distance` is the largest Kolmogorov–Smirnov distance, over coordinates and random directions, between draws from
    the prior and simulated points that the fit did not use. `floor` is the same between two sets of simulated points.
    """

    distance: float
    floor: float

    def __str__(self) -> str:
        return f"prior misfit {self.distance:.3f} (Kolmogorov–Smirnov; two simulations differ by {self.floor:.3f})"


class FittedProcess(NamedTuple):
    """A process with its fitted prior, and the misfit of that prior."""

    sde: NonlinearSDE
    misfit: PriorMisfit


def fit_prior(
    sde: NonlinearSDE,
    x0: Float[Array | np.ndarray, "N ..."],
    *,
    components: int = 8,
    num_steps: int = 256,
    seed: int = 0,
) -> FittedProcess:
    """The process with a fitted prior, a mixture of normals, and the misfit of that prior.

    The mixture is fitted to ends of paths simulated from the data. Each example starts four paths: two for the fit, two
    for the misfit. If the misfit is well above its floor, use more components or a longer t_max.
    """
    from sklearn.mixture import GaussianMixture as Mixture

    check_numbers("fit_prior", locals(), components=AT_LEAST_ONE, num_steps=AT_LEAST_ONE)
    x0 = jnp.asarray(x0)
    run = jax.jit(lambda keys, x: simulate(keys, sde, x, jnp.full(x.shape[:1], sde.t_max, x.dtype), num_steps))
    ends = np.asarray(
        run(sample_keys(jax.random.key(seed), jnp.arange(4 * len(x0))), jnp.tile(x0, (4,) + (1,) * (x0.ndim - 1)))
    )
    train, first, second = ends[: 2 * len(x0)], ends[2 * len(x0) : 3 * len(x0)], ends[3 * len(x0) :]
    found = Mixture(components, covariance_type="diag", random_state=seed).fit(train.reshape(len(train), -1))
    means, variances, weights = (np.asarray(a) for a in (found.means_, found.covariances_, found.weights_))
    shape = (components, *x0.shape[1:])
    prior = GaussianMixture(
        means=jnp.asarray(means.reshape(shape), x0.dtype),
        stds=jnp.asarray(np.sqrt(variances).reshape(shape), x0.dtype),
        weights=jnp.asarray(weights / np.sum(weights), x0.dtype),
    )
    draws = np.asarray(jax.jit(prior.sample)(sample_keys(jax.random.key(seed + 1), jnp.arange(len(x0)))))
    misfit = PriorMisfit(sliced_distance(first, draws, seed), sliced_distance(first, second, seed))
    return FittedProcess(sde.replace(prior=prior), misfit)


def sliced_distance(a: np.ndarray, b: np.ndarray, seed: int = 0, directions: int = 64) -> float:
    """The largest Kolmogorov–Smirnov distance of two sets [N, ...] and [M, ...] over `directions` random directions.

    Also over the coordinates, if there are no more than `directions` of them.
    """
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    d = a.shape[1]
    lines = np.random.default_rng(seed).normal(size=(d, directions)) if d > 1 else np.ones((1, 1))
    lines = np.concatenate([lines, np.eye(d)], axis=1) if 1 < d <= directions else lines
    return max(_kolmogorov_smirnov(a @ line, b @ line) for line in lines.T)


def _kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    both = np.concatenate([a, b])
    share = [np.searchsorted(np.sort(v), both, side="right") / len(v) for v in (a, b)]
    return float(np.max(np.abs(share[0] - share[1])))
