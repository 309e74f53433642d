"""Exact posterior scores for masks (EPS): one denoiser for noise that differs from coordinate to coordinate.

For y = m x_0 + σ_y n with a mask m of 0 and 1, and x_t = α x_0 + σ ε, completing the square in x_0 gives

    v = r σ²/α²,   μ = r x_t/α + (1 − r) y,   r = σ_y²/(σ_y² + m σ²/α²),                                (1)
    p(x_0 | x_t, y) = p(x_0 | x_0 + √v z = μ),   z ~ N(0, I),                                           (2)
    ∇log p(x_t | y) = (α D(μ, v) − x_t)/σ²,   D(μ, v) = E[x_0 | x_0 + √v z = μ].                         (3)

So a posterior score is a denoiser for noise of variance v: σ²/α² where nothing is known, at most σ_y² elsewhere. With
σ_y = 0 known coordinates are clean. (3) is exact for every prior, every t and every mask, up to the network's error; no
derivative of the network is taken. The network learns D from x_0, t, z and random masks: neither y nor x_t is needed,

    ℓ = mean over coordinates of w (D − x_0)²,   D = c_skip μ + c_out F(c_in μ, c_noise, m),   μ = x_0 + √v z,   (4)
    c_skip = σ_d²/T,   c_out = σ_d √(v/T),   c_in = 1/√T,   T = v + σ_d²,   w = 1/c_out² at m = 0.           (5)

Where nothing is known this is `EDMPreconditioning` with the mask as a condition that is 0. So the trained network is
also a model of p(x), for which the mask is the null of a field.

Mammadov et al. 2026, arXiv:2606.17048; (1) to (3) are derived here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sde_lib.losses import TimeDistribution
from sde_lib.node import Leaf, PyTreeNode, Scalar, number
from sde_lib.noise import fold, normal_like
from sde_lib.numbers import concrete
from sde_lib.parameterization import Parameterization, ScoreFn
from sde_lib.posterior.krylov import Rows
from sde_lib.posterior.observation import Observation
from sde_lib.posterior.scores import Method
from sde_lib.sde import GaussianSDE, Time, expand
from sde_lib.training.objective import AppliedNetwork, Batch, Objective, condition
from sde_lib.training.state import TrainState

Denoiser = Callable[[Rows, Rows, Rows, Time], Rows]
"""(μ, v, m, t) → D(μ, v), arrays like x; m and v have x's shape."""


def open_share(sde: GaussianSDE, t: Time, mask: Rows, noise_std: Scalar) -> Rows:
    """r of (1), of the mask's shape: 1 where nothing is known, exactly 0 where the mask is 1 and σ_y = 0."""
    level = expand(sde.sigma(t) / sde.alpha(t), mask) ** 2
    known = jnp.asarray(noise_std, mask.dtype) ** 2
    total = known + mask * level
    return jnp.where(total > 0, known / jnp.where(total > 0, total, 1.0), 1.0)


def eps_score(denoiser: Denoiser, sde: GaussianSDE, mask: Leaf, y: Leaf, noise_std: Scalar) -> ScoreFn:
    """(x, t) → ∇log p(x_t | y) by (3), for a mask and y that broadcast against x."""

    def score(x: Rows, t: Time) -> Rows:
        m, given = (jnp.broadcast_to(jnp.asarray(a, x.dtype), x.shape) for a in (mask, y))
        alpha, sigma = (expand(c, x) for c in (sde.alpha(t), sde.sigma(t)))
        r = open_share(sde, t, m, noise_std)
        x0 = denoiser(r * x / alpha + (1 - r) * given, r * (sigma / alpha) ** 2, m, t)
        return (alpha * x0 - x) / sigma**2

    return score


def denoiser_of(network: Callable, sde: GaussianSDE, parameterization: Parameterization, cond: Any = None) -> Denoiser:
    """D of (4) by a network (c_in μ, c_noise, cond) → F, where cond has the mask; TypeError without sigma_data.

    The mask is a field [B, *space, 1], or a vector [B, d] of events without space.
    """
    sigma_data = data_std(parameterization)

    def denoiser(mu: Rows, v: Rows, mask: Rows, t: Time) -> Rows:
        total = v + sigma_data**2
        c_noise = jnp.broadcast_to(jnp.asarray(parameterization(sde, t).c_noise, mu.dtype), mu.shape[:1])
        shown = mask[..., :1] if mask.ndim > 2 else mask
        output = network(mu / jnp.sqrt(total), c_noise, cond=with_mask(cond, shown))
        return (sigma_data**2 * mu + sigma_data * jnp.sqrt(v * total) * output) / total

    return denoiser


def data_std(parameterization: Parameterization) -> Scalar:
    """σ_d; TypeError for another parameterization than EDMPreconditioning."""
    if not hasattr(parameterization, "sigma_data"):
        raise TypeError(f"EPS: expected EDMPreconditioning, got {type(parameterization).__name__}")
    return getattr(parameterization, "sigma_data")  # noqa: B009  (any class that has it)


def with_mask(cond: Any, mask: Array) -> Any:
    """The network's condition with the mask: the mask alone, or a dict."""
    if cond is None:
        return mask
    return {**(cond if isinstance(cond, dict) else {"label": cond}), "mask": mask}


class EPS(Method):
    """(3), of a network that was trained by `MaskedDenoising` with this noise_std (in model space). A is a Mask.

    An evaluation costs one of the network, and no derivative.
    """

    noise_std: Scalar = number(0.0, at_least=0)

    def check(self, observation: Observation) -> None:
        """ValueError unless the operator is a mask of 0 and 1."""
        mask = getattr(observation.operator, "mask", None)
        values = None if mask is None else concrete(mask)
        if mask is None or (values is not None and np.any((values != 0) & (values != 1))):
            raise ValueError(f"EPS: expected a Mask of 0 and 1, got {type(observation.operator).__name__}")

    def condition(self, model, observation: Observation):
        """ValueError for another σ_y than that of training."""
        given, expected = concrete(observation.noise_std), concrete(self.noise_std)
        if given is not None and expected is not None and not np.isclose(given, expected, rtol=1e-3, atol=1e-6):
            raise ValueError(f"EPS: expected noise_std {expected:g} in model space, that of training, got {given:g}")
        return super().condition(model, observation)

    def model_score(self, network, sde, parameterization, observation, cond=None):
        mask = jnp.asarray(observation.operator.mask)
        denoiser = denoiser_of(network, sde, parameterization, cond)
        known = lambda x: mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)  # noqa: E731
        return lambda x, t: eps_score(denoiser, sde, known(x), observation.y, observation.noise_std)(x, t)

    def __call__(self, score_fn, sde, observation, x, t):
        raise TypeError("EPS is a method of ScoreModel.given: it requires the network, not a score of p(x)")


class RandomMasks(PyTreeNode):
    """(keys, shape) → masks [B, *space, 1] of 0 and 1 (known), or [B, d] of events without space.

    With equal probability nothing is known; all but a box; a box; or each position with a probability that is uniform
    on [0, 1]. A box has sides uniform on 1 … n. Without space the last is always taken.
    """

    def __call__(self, keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        space = shape[:-1] if len(shape) > 1 else shape
        masks = jax.vmap(lambda key: self._one(key, space, len(shape) > 1))(keys)
        return masks[..., None] if len(shape) > 1 else masks

    def _one(self, key: Key[Array, ""], space: tuple[int, ...], boxes: bool) -> Float[Array, "..."]:
        kind, density, pixels, *of_axes = jax.random.split(key, 3 + 2 * len(space))
        scattered = jax.random.uniform(pixels, space) < jax.random.uniform(density)
        if not boxes:
            return scattered.astype(float)
        inside = jnp.ones(space, bool)
        for axis, n in enumerate(space):
            side = jax.random.randint(of_axes[2 * axis], (), 1, n + 1)
            first = jax.random.randint(of_axes[2 * axis + 1], (), 0, n - side + 1)
            at = jnp.arange(n)
            line = (at >= first) & (at < first + side)
            inside = inside & line.reshape((1,) * axis + (n,) + (1,) * (len(space) - axis - 1))
        choices = jnp.stack([jnp.zeros(space, bool), ~inside, inside, scattered])
        return choices[jax.random.randint(kind, (), 0, 4)].astype(float)


class MaskedDenoising(Objective):
    """(4) with random masks: trains the network of `EPS`, which is a model of p(x) too.

    The parameterization is EDMPreconditioning. The network takes a field of one channel (cond_channels=1), or for
    events [d] a vector (cond_dim=d). `noise_std` is σ_y in model space. TypeError for another parameterization.
    """

    makes_condition = True
    sde: GaussianSDE
    parameterization: Parameterization
    time_distribution: TimeDistribution
    masks: Callable = RandomMasks()
    noise_std: Scalar = number(0.0, at_least=0)

    def times(self, key: Key[Array, ""], n: int) -> Float[Array, " n"]:
        return self.time_distribution(key, self.sde, n)

    def __call__(
        self, keys: Key[Array, " B"], t: Float[Array, " B"], network: AppliedNetwork, batch: Batch, state: TrainState
    ) -> Float[Array, " B"]:
        x0 = batch["x"]
        mask = jnp.broadcast_to(self.masks(fold(keys, 1), x0.shape[1:]).astype(x0.dtype), x0.shape)
        level = expand(self.sde.sigma(t) / self.sde.alpha(t), x0) ** 2
        v = open_share(self.sde, t, mask, self.noise_std) * level
        denoiser = denoiser_of(network, self.sde, self.parameterization, condition(batch))
        found = denoiser(x0 + jnp.sqrt(v) * normal_like(fold(keys, 0), x0), v, mask, t)
        s2 = jnp.asarray(data_std(self.parameterization), x0.dtype) ** 2
        weight = (level + s2) / (level * s2)
        return jnp.mean(weight * (found - x0) ** 2, axis=tuple(range(1, x0.ndim)))
