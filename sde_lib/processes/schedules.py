"""Processes whose schedule is a table, or is learned.

Variance-preserving processes are specified by the log signal-to-noise ratio λ alone (Kingma et al. 2021,
arXiv:2107.00630, eq. 2):

    α²(t) = sigmoid(λ(t)),   σ²(t) = sigmoid(−λ(t)).                                                    (1)

A discrete-time model has its table at times t_k, and a monotone cubic interpolates between them
(`sde_lib.processes.interpolation`). So the process is exactly the discrete model at the table's times, and an SDE like
any other in between. `GridTime` with N steps draws training times on the table; `UniformGrid` with N − 1 steps samples
on it.

    DDPM, t_k = k/N, k = 1 … N:        ᾱ_k = Π_{i≤k} (1 − β_i),  α(t_k) = √ᾱ_k,  σ²(t_k) = 1 − ᾱ_k       (2)
    NCSN, t_k = k/(N − 1), k = 0 … N−1:  α = 1,  σ(t_k) = σ_k                                            (3)
    improved DDPM's β_k = min(1 − c_k/c_{k−1}, 0.999),  c_k = cos²(π/2 · (k/N + 0.008)/1.008)             (4)

(2) Ho et al. 2020, arXiv:2006.11239, eq. 4. (3) Song & Ermon 2019, arXiv:1907.05600, section 4.1. (4) Nichol &
Dhariwal 2021, arXiv:2102.09672, eq. 17.
"""

import abc

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.node import Leaf, Scalar, number
from sde_lib.numbers import POSITIVE, Allowed, check_number, check_numbers, concrete
from sde_lib.processes.interpolation import check_order, monotone_cubic, on_even_knots
from sde_lib.sde import Coefficient, GaussianSDE, Time


class LogSNRSDE(GaussianSDE):
    """A variance-preserving process specified by λ(t) (1), which must decrease. A subclass defines `log_snr`."""

    @abc.abstractmethod
    def log_snr(self, t: Time) -> Coefficient:
        """λ(t)."""

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(0.5 * jax.nn.log_sigmoid(self.log_snr(t)))

    def sigma(self, t: Time) -> Coefficient:
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.log_snr(t)))

    def prior_std(self) -> Coefficient:
        return 1.0


class TabulatedLogSNR(LogSNRSDE):
    """λ through a table: decreasing `values` [N] at the times `knots` [N], which increase from 0 to t_max.

    The values are leaves, so they can be learned, as long as they keep decreasing.
    """

    knots: Leaf
    values: Leaf

    def _check_numbers(self) -> None:
        super()._check_numbers()
        check_order("TabulatedLogSNR", "knots", self.knots)
        check_order("TabulatedLogSNR", "values", self.values, -1)
        knots, values = concrete(self.knots), concrete(self.values)
        if knots is None or values is None:
            return
        if len(knots) != len(values):
            raise ValueError(f"TabulatedLogSNR: expected as many knots as values; got {len(knots)} and {len(values)}")
        within = Allowed(at_least=float(knots[0]), at_most=float(knots[-1]) * (1 + 1e-6))
        check_numbers("TabulatedLogSNR", {"t_min": self.t_min, "t_max": self.t_max}, t_min=within, t_max=within)

    def log_snr(self, t: Time) -> Coefficient:
        values = jnp.asarray(self.values)
        return monotone_cubic(jnp.asarray(t), jnp.asarray(self.knots), values[0], jnp.diff(values))


class LearnedLogSNR(LogSNRSDE):
    """λ decreasing from `log_snr_max` to `log_snr_min` over [0, 1] by fractions of its range, softmax(logits) [K]:

        λ(k/K) = λ_max − (λ_max − λ_min) Σ_{j≤k} softmax(logits)_j

    so that any logits give a schedule. Zeros give the one that is linear in λ. The ends are fixed: the likelihood bound
    depends on them alone. The shape between them affects only the variance of its estimate (Kingma et al. 2021, section
    5.1). Learn it by the gradient of the squared loss with the likelihood weight.
    """

    logits: Leaf = number()
    log_snr_max: Scalar = number(13.3)
    log_snr_min: Scalar = number(-5.0, below="log_snr_max")
    t_max: Scalar = number(1.0, above=0, at_most=1)

    def log_snr(self, t: Time) -> Coefficient:
        t = jnp.asarray(t)
        parts = jax.nn.softmax(jnp.asarray(self.logits).astype(t.dtype))
        return self.log_snr_max - (self.log_snr_max - self.log_snr_min) * on_even_knots(
            t, jnp.zeros_like(parts[0]), parts
        )


class DiscreteVP(GaussianSDE):
    """DDPM's process (2), as an SDE on (0, 1]: `rises` [N] are −log(1 − β_k), whose sum up to k is −log ᾱ_k.

    Built by `discrete_vp`.
    """

    rises: Leaf = number(above=0)
    t_max: Scalar = number(1.0, above=0, at_most=1)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Time) -> Coefficient:
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def prior_std(self) -> Coefficient:
        return 1.0

    def _integral(self, t: Time) -> Coefficient:
        """−log ᾱ."""
        rises = jnp.asarray(self.rises)
        return on_even_knots(jnp.asarray(t), jnp.zeros_like(rises[0]), rises)


def discrete_vp(
    num_steps: int = 1000,
    beta_min: float = 1e-4,
    beta_max: float = 0.02,
    betas: tuple[float, ...] | None = None,
    schedule: str = "linear",
) -> DiscreteVP:
    """DDPM's process (2): β_1 … β_N from beta_min to beta_max, or the table `betas`. t_min is t_1 = 1/N.

    `schedule` is "linear" (Ho et al. 2020, section 4, whose numbers are the defaults), "scaled_linear", which is linear
    in √β (Rombach et al. 2022, their code), or "cosine" (4), for which beta_min and beta_max mean nothing. Raises
    ValueError for a β outside (0, 1), and for another schedule.
    """
    if betas is None:
        low, high = Allowed(above=0, at_most="beta_max"), Allowed(above=0, below=1)
        check_numbers("discrete_vp", locals(), num_steps=Allowed(at_least=2, whole=True), beta_min=low, beta_max=high)
        table = _betas(num_steps, beta_min, beta_max, schedule)
    else:
        table = np.asarray(betas, np.float64)
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"discrete_vp: expected at least two numbers betas; got an array of shape {table.shape}")
    check_number("discrete_vp", "betas", table, Allowed(above=0, below=1))
    return DiscreteVP(rises=-np.log1p(-table), t_min=1 / len(table))


def _betas(num_steps: int, beta_min: float, beta_max: float, schedule: str) -> np.ndarray:
    if schedule == "linear":
        return np.linspace(beta_min, beta_max, num_steps)
    if schedule == "scaled_linear":
        return np.linspace(np.sqrt(beta_min), np.sqrt(beta_max), num_steps) ** 2
    if schedule == "cosine":
        alpha_bar = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    raise ValueError(f"discrete_vp: schedule: expected one of 'linear', 'scaled_linear', 'cosine', got {schedule!r}")


class DiscreteVE(GaussianSDE):
    """NCSN's process (3), as an SDE on [0, 1]: increasing `log_sigmas` [N] at t_k = k/(N − 1).

    Built by `discrete_ve`. The smallest noise level is at t = 0, so nothing is singular there and t_min is 0.
    """

    log_sigmas: Leaf
    t_min: Scalar = 0.0
    t_max: Scalar = number(1.0, above=0, at_most=1)

    def _check_numbers(self) -> None:
        super()._check_numbers()
        check_order("DiscreteVE", "log_sigmas", self.log_sigmas)

    def alpha(self, t: Time) -> Coefficient:
        return jnp.ones_like(t)

    def sigma(self, t: Time) -> Coefficient:
        values = jnp.asarray(self.log_sigmas)
        return jnp.exp(on_even_knots(jnp.asarray(t), values[0], jnp.diff(values)))


def discrete_ve(
    num_scales: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0, sigmas: tuple[float, ...] | None = None
) -> DiscreteVE:
    """NCSN's process (3): σ geometric from sigma_min to sigma_max, or the increasing table `sigmas`.

    The defaults are those of Song & Ermon 2019, section 5. Raises ValueError for a table that is not positive or does
    not increase.
    """
    if sigmas is None:
        many, low = Allowed(at_least=2, whole=True), Allowed(above=0, below="sigma_max")
        check_numbers("discrete_ve", locals(), num_scales=many, sigma_min=low, sigma_max=POSITIVE)
    table = np.geomspace(sigma_min, sigma_max, num_scales) if sigmas is None else np.asarray(sigmas, np.float64)
    check_number("discrete_ve", "sigmas", table, POSITIVE)
    check_order("discrete_ve", "sigmas", table)
    return DiscreteVE(log_sigmas=np.log(table))
