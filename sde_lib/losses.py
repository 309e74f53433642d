"""Denoising score matching: learn ∇log p_t by matching the score of the kernel.

    L = E_t E_{x_0, ε}  w(t) · R[(s(x_t, t) − ∇log p(x_t | x_0))²],     x_t = α x_0 + σ ε                 (1)
    ∇log p(x_t | x_0) = −ε/σ                                                                        (2)

(Vincent 2011; Song et al. 2021, eq. 7), where R reduces over a sample's coordinates: half their sum, as in the papers,
or their mean. For every weight w > 0 the minimizer is the marginal score ∇log p_t. For normal data of variance s² in
each of d coordinates, and R = ½Σ, the minimum is

    ½ d E_t [w(t) α² s² / (σ² (α² s² + σ²))].                                                         (3)

Times and keys are arguments: the training step draws both (`sde_lib.training.objective`), so the loss at one t is a
plain call. A weight is one function, and so is a distribution of t. The classes here have parameters that a config can
name.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import PyTreeNode, Scalar, number, static, with_attributes
from sde_lib.noise import sample_keys
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import KERNEL, SDE, Coefficient, GaussianSDE, Time, expand


@runtime_checkable
class Weight(Protocol):
    """(sde, t) → w(t) of (1), of t's shape."""

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficient: ...


@runtime_checkable
class TimeDistribution(Protocol):
    """(key, sde, n) → n times in [t_min, t_max]."""

    def __call__(self, key: Key[Array, ""], sde: SDE, n: int) -> Float[Array, " n"]: ...


@runtime_checkable
class Loss(Protocol):
    """(keys [B], score_fn, sde, x0 [B, ...], t [B]) → one value per sample [B]; entry i depends on row i of each."""

    def __call__(
        self, keys: Key[Array, " B"], score_fn: ScoreFn, sde: Any, x0: Float[Array, "B ..."], t: Float[Array, " B"]
    ) -> Float[Array, " B"]: ...


class SigmaSquared(PyTreeNode):
    """w = σ²: all noise levels have equal weight for the noise prediction (Song et al. 2021, section 3.3)."""

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficient:
        return sde.sigma(t) ** 2


class LikelihoodWeight(PyTreeNode):
    """w = g²: with R = ½Σ, (1) bounds −log p(x_0) up to a constant (Song et al. 2021b, arXiv:2101.09258, eq. 8)."""

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficient:
        return sde.diffusion(t) ** 2


class EDMWeight(PyTreeNode):
    """w = 1/c_out² = σ² (α² σ_d² + σ²)/(α σ_d)²: the network's own squared error, under `EDMPreconditioning`.

    Karras et al. 2022, table 1, λ(σ) = (σ² + σ_d²)/(σ σ_d)² for the denoiser, converted to the score.
    """

    sigma_data: Scalar = number(0.5, above=0)

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficient:
        sigma, signal = sde.sigma(t), sde.alpha(t) * self.sigma_data
        return sigma**2 * (1 + (sigma / signal) ** 2)


class UniformTime(PyTreeNode):
    """t uniform on [t_min, t_max], independently for each sample (Song et al. 2021, eq. 7)."""

    def __call__(self, key: Key[Array, ""], sde: SDE, n: int) -> Float[Array, " n"]:
        u = jax.vmap(jax.random.uniform)(sample_keys(key, jnp.arange(n)))
        return sde.t_min + (sde.t_max - sde.t_min) * u


class StratifiedTime(PyTreeNode):
    """t uniform on [t_min, t_max], one in each of n equal strata: t_i ∝ (u + i/n) mod 1 with one u for the batch.

    Each t alone is uniform. Together they cover the interval evenly, which lowers the variance of the loss (Kingma et
    al. 2021, appendix I.1).
    """

    def __call__(self, key: Key[Array, ""], sde: SDE, n: int) -> Float[Array, " n"]:
        u = (jax.random.uniform(key) + jnp.arange(n) / n) % 1.0
        return sde.t_min + (sde.t_max - sde.t_min) * u


class PowerTime(PyTreeNode):
    """t = (t_min^{1/p} + u (t_max^{1/p} − t_min^{1/p}))^p with u as in StratifiedTime: dense at the data for p > 1."""

    power: Scalar = number(3.0, above=0)

    def __call__(self, key: Key[Array, ""], sde: SDE, n: int) -> Float[Array, " n"]:
        u = (jax.random.uniform(key) + jnp.arange(n) / n) % 1.0
        first, last = (jnp.asarray(t, u.dtype) ** (1 / self.power) for t in (sde.t_min, sde.t_max))
        return jnp.clip((first + u * (last - first)) ** self.power, sde.t_min, sde.t_max)


class LogNormalTime(PyTreeNode):
    """log(σ/α) normal with this mean and standard deviation, clipped to the process's range; t follows by inversion.

    Karras et al. 2022, table 1: P_mean = −1.2, P_std = 1.2; stratified as in StratifiedTime.
    """

    mean: Scalar = number(-1.2)
    std: Scalar = number(1.2, above=0)

    def __call__(self, key: Key[Array, ""], sde: GaussianSDE, n: int) -> Float[Array, " n"]:
        u = (jax.random.uniform(key) + (jnp.arange(n, dtype=float) + 0.5) / n) % 1.0
        log_noise_level = self.mean + self.std * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
        return sde.time_of_log_snr(-2 * log_noise_level)


class GridTime(PyTreeNode):
    """t uniform on num_steps equidistant times from t_min to t_max.

    On `discrete_vp` and `discrete_ve` with as many steps, these are the discrete-time objectives of DDPM and NCSN (Ho
    et al. 2020, algorithm 1; Song & Ermon 2019, eq. 6).
    """

    num_steps: int = static(1000, at_least=1)

    def __call__(self, key: Key[Array, ""], sde: SDE, n: int) -> Float[Array, " n"]:
        keys = sample_keys(key, jnp.arange(n))
        k = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.num_steps))(keys)
        return jnp.linspace(sde.t_min, sde.t_max, self.num_steps)[k]


def dequantize(keys: Key[Array, " B"], x: Float[Array, "B ..."], bin_width) -> Float[Array, "B ..."]:
    """x + Δ u with u uniform on [−½, ½], a point in each value's bin. The width Δ is a number or one per coordinate."""
    width = jnp.asarray(bin_width, x.dtype)
    draw = lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -0.5, 0.5)  # noqa: E731
    return x + (width if width.ndim == 0 else width[None]) * jax.vmap(draw)(keys)


def half_sum(squares: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """½ Σ over a sample's coordinates, the papers' ½‖·‖²: [B, ...] → [B]."""
    return 0.5 * jnp.sum(squares, axis=tuple(range(1, squares.ndim)))


def mean(squares: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """The mean over a sample's coordinates, which does not grow with the dimension: [B, ...] → [B]."""
    return jnp.mean(squares, axis=tuple(range(1, squares.ndim)))


@with_attributes(requires=KERNEL)
def dsm_loss(
    keys: Key[Array, " B"],
    score_fn: ScoreFn,
    sde: GaussianSDE,
    x0: Float[Array, "B ..."],
    t: Float[Array, " B"],
    *,
    weight: Weight = SigmaSquared(),
    reduce: Callable[[Float[Array, "B ..."]], Float[Array, " B"]] = half_sum,
) -> Float[Array, " B"]:
    """Denoising score matching (1) at the times t, one value per sample; the noise of sample i comes from keys[i].

    The error is computed as σ s + ε and weighted by w/σ². This is accurate in float32 at small σ, where the two scores
    of (1) are large and nearly equal.
    """
    x, eps = sde.perturb(keys, x0, t)
    error = expand(sde.sigma(t), x) * score_fn(x, t) + eps
    return reduce(expand(weight(sde, t) / sde.sigma(t) ** 2, x) * error**2)
