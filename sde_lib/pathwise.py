"""Processes without a kernel: dx = f(x, t) dt + g(t) dw with any drift, simulated, and their scores learnt from paths.

Paths are simulated from x_0 to each sample's own time t in N steps of h = t/N, by Heun's rule for the drift,

    y = x + h f(x, u) + g √h z,    x ← x + ½ h [f(x, u) + f(y, u + h)] + g √h z,    g = g(u + ½ h),        (1)

of weak order 2, since the noise does not depend on x (Kloeden & Platen 1992, section 15.1).

Two losses have the score of the simulated marginal for their minimiser.

Transitions. Let the last of the N steps be Euler–Maruyama's: given y, the point before it, x_t is normal, and

    L = E ½ ‖ g√h s(x_t, t) + z ‖²,     x_t = y + h f(y, t − h) + g √h z,                               (2)

is denoising score matching on p(x_t | y) with the weight g² h: the minimiser is ∇log p_t of the path so discretised
(De Bortoli et al. 2021, arXiv:2106.01357, section 3; Huang et al. 2021, arXiv:2106.02808), which is off by O(h²). One
evaluation of the network, no derivative in x, any dimension; but the step is N times smaller than the path, and z
drowns the score N times as much as in the loss of a known kernel. Take it in high dimension and for large networks.

Sliced. With v of independent signs,

    L = E w(t) [ v·∇_x (v·s(x_t, t)) + ½ ‖s(x_t, t)‖² ],                                              (3)

is score matching (Hyvärinen 2005, theorem 1) with its trace estimated (Song et al. 2019, arXiv:1905.07088, eq. 8);
with the exact trace it is implicit score matching. No noise but the data's own, so it learns faster in few dimensions;
each step costs a directional derivative of the network, and the trace's variance grows with the dimension. Take the
exact trace in one to about four dimensions, the sliced one up to some tens.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sde_lib.exact import GaussianMixture
from sde_lib.losses import StratifiedTime, TimeLaw, half_sum
from sde_lib.noise import fold, normal_like, sample_keys
from sde_lib.parameterization import ScoreFn
from sde_lib.quadrature import gathered_noise
from sde_lib.sde import SDE, Coefficient, Time, expand


class PathSDE(SDE):
    """A process given by `drift(x, t)` and `diffusion(t)` alone, with a mixture of normals for its prior.

    The prior is given, or fitted to simulated paths by `fit_prior`. A subclass that knows its prior better writes
    `prior_sample` and `prior_logp` and leaves `prior` alone.
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
            raise ValueError(f"{type(self).__name__} has no prior: fit one with fit_prior(sde, x0), or give prior=")
        found = jnp.shape(self.prior.means)[1:]
        if found != tuple(shape):
            raise ValueError(f"the prior of {type(self).__name__} has events {found}; expected {tuple(shape)}")
        return self.prior


def simulate(
    keys: Key[Array, " B"], sde: SDE, x0: Float[Array, "B ..."], t: Time, num_steps: int = 64
) -> Float[Array, "B ..."]:
    """x_t by (1) in num_steps steps, from x_0 to each sample's own t.

    Row i is a function of x0[i], t[i] and keys[i].
    """

    def step(x, k):
        return heun_step(fold(keys, k), sde, x, t * (k.astype(x.dtype) / num_steps), t / num_steps), None

    return jax.lax.scan(step, x0, jnp.arange(num_steps))[0]


def simulate_path(
    keys: Key[Array, " B"], sde: SDE, x0: Float[Array, "B ..."], times: Float[Array, " N"], substeps: int = 8
) -> Float[Array, "N B ..."]:
    """The path at the rising `times`, from x_0 at times[0], by (1) in `substeps` steps between two of them."""

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


def transition_loss(
    key: Key[Array, ""],
    score_fn: ScoreFn,
    sde: SDE,
    x0: Float[Array, "B ..."],
    *,
    num_steps: int = 32,
    sample_time: TimeLaw = StratifiedTime(),
    reduce: Callable[[Float[Array, "B ..."]], Float[Array, " B"]] = half_sum,
) -> Float[Array, " B"]:
    """Denoising score matching on the last of `num_steps` transitions (2), one value a sample."""
    t, path_keys, noise_keys = _draws(key, sde, x0, sample_time)
    h = t / num_steps
    y = simulate(path_keys, sde, x0, t - h, num_steps)
    z = normal_like(noise_keys, x0)
    std = expand(sde.diffusion(t - 0.5 * h) * jnp.sqrt(h), y)
    x = y + expand(h, y) * sde.drift(y, t - h) + std * z
    return reduce((std * score_fn(x, t) + z) ** 2)


def sliced_loss(
    key: Key[Array, ""],
    score_fn: ScoreFn,
    sde: SDE,
    x0: Float[Array, "B ..."],
    *,
    num_steps: int = 32,
    sample_time: TimeLaw = StratifiedTime(),
    exact_trace: bool = False,
) -> Float[Array, " B"]:
    """Sliced score matching (3), or implicit score matching with the exact trace; one value a sample.

    The weight is w = ∫₀ᵗ g², which is about the variance of the noise while t is small. The value may be negative: it
    is the Fisher divergence less a constant.
    """
    t, path_keys, probe_keys = _draws(key, sde, x0, sample_time)
    x = simulate(path_keys, sde, x0, t, num_steps)
    weight = expand(gathered_noise(sde, t), x) ** 2
    over_event = tuple(range(1, x.ndim))
    along = lambda v: jax.jvp(lambda x: score_fn(x, t), (x,), (v,))  # noqa: E731
    if exact_trace:
        directions = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
        score, slopes = jax.vmap(lambda v: along(jnp.broadcast_to(v, x.shape)), out_axes=(None, 0))(directions)
        divergence = jnp.sum(directions * slopes, axis=0)
    else:
        v = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(probe_keys)
        score, slope = along(v)
        divergence = v * slope
    return jnp.sum(weight * (divergence + 0.5 * score**2), axis=over_event)


def _draws(key, sde, x0, sample_time):
    """t [B] of x0's dtype, and two streams of keys [B]."""
    time_key, noise_key = jax.random.split(key)
    keys = sample_keys(noise_key, jnp.arange(x0.shape[0]))
    return sample_time(time_key, sde, x0.shape[0]).astype(x0.dtype), fold(keys, 0), fold(keys, 1)


class Misfit(NamedTuple):
    """How far a prior is from x at t_max: the largest Kolmogorov–Smirnov distance between simulated points, which the
    fit has not seen, and draws of the prior, over coordinates and random directions; `floor` is that between two sets
    of simulated points."""

    distance: float
    floor: float

    def __str__(self) -> str:
        return f"prior misfit {self.distance:.3f} (Kolmogorov–Smirnov; two simulations differ by {self.floor:.3f})"


class Fitted(NamedTuple):
    """A process with its fitted prior, and how well that fits."""

    sde: PathSDE
    misfit: Misfit


def fit_prior(
    sde: PathSDE, x0: Float[Array | np.ndarray, "N ..."], *, components: int = 8, num_steps: int = 256, seed: int = 0
) -> Fitted:
    """The process with a mixture of normals, fitted to paths simulated from the data, for its prior; and its misfit.

    Each example starts four paths, two of which are kept for the misfit. A misfit well above its floor asks for more
    components, or for a longer t_max.
    """
    from sklearn.mixture import GaussianMixture as Mixture

    x0 = jnp.asarray(x0)
    run = jax.jit(lambda keys, x: simulate(keys, sde, x, jnp.full(x.shape[:1], sde.t_max, x.dtype), num_steps))
    ends = np.asarray(
        run(sample_keys(jax.random.key(seed), jnp.arange(4 * len(x0))), jnp.tile(x0, (4,) + (1,) * (x0.ndim - 1)))
    )
    train, first, second = ends[: 2 * len(x0)], ends[2 * len(x0) : 3 * len(x0)], ends[3 * len(x0) :]
    found = Mixture(components, covariance_type="diag", random_state=seed).fit(train.reshape(len(train), -1))
    shape = (components, *x0.shape[1:])
    prior = GaussianMixture(
        means=jnp.asarray(found.means_.reshape(shape), x0.dtype),
        stds=jnp.asarray(np.sqrt(found.covariances_).reshape(shape), x0.dtype),
        weights=jnp.asarray(found.weights_ / np.sum(found.weights_), x0.dtype),
    )
    draws = np.asarray(jax.jit(prior.sample)(sample_keys(jax.random.key(seed + 1), jnp.arange(len(x0)))))
    misfit = Misfit(sliced_distance(first, draws, seed), sliced_distance(first, second, seed))
    return Fitted(sde.replace(prior=prior), misfit)


def sliced_distance(a: np.ndarray, b: np.ndarray, seed: int = 0, directions: int = 64) -> float:
    """The largest Kolmogorov–Smirnov distance of two sets [N, ...] and [M, ...] over `directions` random directions
    and, where there are no more than those, over the coordinates."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    d = a.shape[1]
    lines = np.random.default_rng(seed).normal(size=(d, directions)) if d > 1 else np.ones((1, 1))
    lines = np.concatenate([lines, np.eye(d)], axis=1) if 1 < d <= directions else lines
    return max(_kolmogorov_smirnov(a @ line, b @ line) for line in lines.T)


def _kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    both = np.concatenate([a, b])
    share = [np.searchsorted(np.sort(v), both, side="right") / len(v) for v in (a, b)]
    return float(np.max(np.abs(share[0] - share[1])))
