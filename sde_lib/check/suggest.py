"""The parameters of a process, proposed from the data: numbers to start from, each with its reason.

For N points of d coordinates in model space, with σ_data the standard deviation over all coordinates:

    sigma_max   max_ij ‖x_i − x_j‖                                                                    (1)
    sigma_min   min(δ/4, σ_data/100), with δ the step of the grid that the values are on or,          (2)
                if there is none, median_i min_j ‖x_i − x_j‖ / √d
    t_min       σ(t_min)/α(t_min) = sigma_min/σ_data, for VP on standardized data                     (3)
    beta_max    −½ d log(1 − α(1)²) = kl, for VP on standardized data                                 (4)
    snr         √(e/(1 + e)) with e = 2.5 %                                                           (5)

(1) Noise that takes any point to any other: Song & Ermon 2020, arXiv:2006.09011, technique 1. (2) is a rule of ours.
With noise of a quarter of a step, 95 % of the values are rounded back to the original ones. For 8-bit images in [−1, 1]
it gives the 0.002 of Karras et al. (2022, arXiv:2206.00364, table 1). Between points it is noise whose norm is a
quarter of the distance to the nearest neighbor. The hundredth is for few levels, and for data of many dimensions, whose
neighbors are farther away than their details are large. (3) and (4) have closed forms, through ∫β = log(1 + σ²/α²) up
to t_min and ½ (β_min + β_max) = −log α(1)².

How far p(x at t_max) is from the prior N(0, p²): for a coordinate of mean μ and variance s², and with the divergence of
N(m, v) from the prior, K(m², v) = ½ (m²/p² + v/p² − 1 − log(v/p²)),

    Σ K(α² μ², α² s² + σ²)  ≤  KL(p(x at t_max) ‖ prior)  ≤  Σ K(α² (μ² + s²), σ²).                    (6)

The left is the divergence of Gaussian data with independent coordinates; all other data with these moments have a
larger one. The right is the mean over the data of KL(p(x at t_max | x_0) ‖ prior), which is larger by convexity: the
prior's term of the variational bound (Ho et al. 2020, arXiv:2006.11239, L_T of eq. 5). With exact scores, samples that
start from the prior differ from the data by no more than this in KL, and by no more than √(KL/2) in total variation.
For standardized data the right is (4): the same for all data of d coordinates.

(5) At a small noise level x is near one data point, x ~ N(x_0, σ²). The Langevin step h = 2 (r σ)² of
`solvers.predictor_corrector` then makes the chain x ← x − h (x − x_0)/σ² + √(2h) z. Its stationary variance is
σ²/(1 − h/(2σ²)) = σ²/(1 − r²) in any dimension: too large by e for (5), and by 2.6 % for the published r = 0.16.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.node import PyTreeNode
from sde_lib.numbers import POSITIVE, check_number
from sde_lib.processes.closed_form import VP
from sde_lib.sde import SDE, GaussianSDE, expand, has_kernel

BETA_MIN = 0.1
SHARE_OF_DETAIL, SHARE_OF_STD = 1 / 4, 1 / 100  # of (2)
EXCESS_VARIANCE = 0.025  # e of (5)
LEVELS = 2**16  # a grid with more levels is that of a number format
UNLIKE_SCALES = 10.0  # the largest standard deviation over their lower quartile: larger ratios give a warning
LARGE_KL = 0.01  # nats per dimension
BLOCK = 2**22  # numbers held in float64 at once


class PriorKL(NamedTuple):
    """The bounds (6) on KL(p(x at t_max) ‖ prior), in nats per dimension."""

    at_least: float
    at_most: float


class Suggestion(PyTreeNode):
    """The result of `suggest`; printed, it is a table of values, their places in a config, and reasons.

    Lengths (mean, sigma_data, sigma_max, sigma_min, median_distance, nearest, step) are in the data's unit; t_min,
    beta_max and snr do not depend on it. `std_ratio` and `quartile_ratio` are the largest standard deviation of a
    coordinate over the smallest, and over the lower quartile, without constant coordinates. Images have a few that are
    nearly constant. `nearest` and `step` are the two δ of (2); step is None for values on no grid. The last three
    fields are None if no process was given.
    """

    points: int
    compared: int
    dimensions: int
    constant: int
    mean: float
    sigma_data: float
    std_ratio: float
    quartile_ratio: float
    sigma_max: float
    median_distance: float
    nearest: float
    step: float | None
    sigma_min: float
    t_min: float
    beta_max: float
    kl: float
    vp_kl: PriorKL
    snr: float
    sde: str | None = None
    sde_t_min: float | None = None
    sde_kl: PriorKL | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Properties of the data, or of the data with the process, that need a decision; often empty."""
        found = []
        if self.quartile_ratio > UNLIKE_SCALES:
            found.append(
                f"the standard deviations of coordinates differ by up to {self.std_ratio:.3g} times: "
                "use DiagonalVP(scales=...), or a Standardize transform"
            )
        if self.vp_kl.at_most > 10 * self.kl / self.dimensions:
            found.append(
                f"VP expects mean 0 and standard deviation 1; on the data as they are it ends up to "
                f"{self.vp_kl.at_most:.2g} nats per dimension from its prior: Standardize or Scale them first"
            )
        if self.sde_kl is not None and self.sde_kl.at_least > LARGE_KL:
            found.append(
                f"{self.sde} ends at least {self.sde_kl.at_least:.2g} nats per dimension from its prior: "
                "it needs more noise at t_max, or data that are centered and scaled"
            )
        return tuple(found)

    def __str__(self) -> str:
        among = "" if self.compared == self.points else f" between {self.compared} of the points"
        constant = f"; {self.constant} constant coordinates" if self.constant else ""
        detail = "nearest neighbors' distance/sqrt(d)" if self.step is None else "step of the values' grid"
        standardized = "standardized data"
        rows = [
            (
                "sigma_data",
                self.sigma_data,
                "EDMPreconditioning(sigma_data)",
                "standard deviation over all coordinates",
            ),
            ("mean", self.mean, "Standardize(mean)", "over all coordinates"),
            ("std ratio", self.std_ratio, "DiagonalVP(scales)", f"largest over smallest of a coordinate{constant}"),
            (
                "sigma_max",
                self.sigma_max,
                "VE(sigma_max), EDM(t_max)",
                f"largest distance{among}; the median is {self.median_distance:.4g}",
            ),
            (
                "sigma_min",
                self.sigma_min,
                "VE(sigma_min), EDM(t_min)",
                f"the smaller of sigma_data/100 and 1/4 of the {detail}, {self.step or self.nearest:.4g}",
            ),
            ("t_min", self.t_min, "VP(t_min)", f"where noise is sigma_min/sigma_data, {standardized}"),
            ("beta_max", self.beta_max, "VP(beta_max)", f"at most {self.kl:.2g} nats from the prior, {standardized}"),
            (
                "snr",
                self.snr,
                "Langevin(snr)",
                f"{EXCESS_VARIANCE:.1%} too much variance; try half and twice too",
            ),
            ("KL of VP", self.vp_kl, "", "nats per dimension from the prior, this beta_max, data as they are"),
        ]
        if self.sde is not None:
            rows.append((f"KL of {self.sde}", self.sde_kl, "", "nats per dimension from the prior, the process given"))
            rows.append(("t_min", self.sde_t_min, f"{self.sde}(t_min)", "where noise is sigma_min, data as they are"))
        lines = [f"{self.points} points of {self.dimensions} coordinates"]
        for name, value, place, reason in rows:
            value = f"{value:.4g}" if isinstance(value, float) else f"{value.at_least:.2g} to {value.at_most:.2g}"
            lines.append(f"{name:<20}{value:<22}{place:<31}{reason}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def suggest(
    x: Float[np.ndarray | Array, "N ..."],
    *,
    sde: SDE | None = None,
    seed: int = 0,
    max_points: int = 2000,
    kl: float = 1e-3,
) -> Suggestion:
    """Proposes parameters for data x [N, *event] in model space, by the rules at the head of this module.

    kl is the divergence in nats, of all coordinates together, that beta_max may leave (4). With `sde`, a process with a
    kernel, the result also has that process's t_min and KL. Distances are those between max_points points, drawn with
    `seed` if there are more: then sigma_max is a little too small, and `nearest` too large.

    Raises ValueError for fewer than two points, values that are not finite, and points that are all alike; TypeError
    for a process without a kernel.

    >>> pixels = np.random.default_rng(0).integers(0, 17, (100, 8, 8, 1)) / 8 - 1
    >>> found = suggest(pixels)
    >>> print(found.step, f"{found.sigma_data:.2f} {found.beta_max:.1f} {found.snr:.2f}")
    0.125 0.61 20.6 0.16
    """
    x = np.asarray(x)
    if x.ndim == 0 or x.size == 0 or min(len(x), max_points) < 2:
        raise ValueError(f"suggest: expected at least 2 points [N, ...] to compare, got {x.shape} and {max_points=}")
    check_number("suggest", "kl", kl, POSITIVE)
    if sde is not None and not has_kernel(sde):
        raise TypeError(f"suggest: expected a process with a kernel (alpha and sigma), got {type(sde).__name__}")
    flat = x.reshape(len(x), -1)
    mean, std = _moments(flat)
    if len(flat) > max_points:
        flat = flat[np.random.default_rng(seed).choice(len(flat), max_points, replace=False)]
    if np.all(flat == flat[:1]):
        raise ValueError(f"suggest: expected data that differ, got {len(flat)} points (of {len(x)}) that are all alike")

    distances = _distances(flat)
    pairs = distances[np.triu_indices(len(flat), 1)]
    sigma_max, dimensions = float(pairs.max()), flat.shape[1]
    apart = np.where(distances > 1e-5 * sigma_max, distances, np.inf)  # nearer points are the same point
    nearest = float(np.median(apart.min(axis=1))) / math.sqrt(dimensions)
    step = _grid_step(flat)
    center = float(mean.mean())
    sigma_data = math.sqrt(np.mean(std**2 + (mean - center) ** 2))
    sigma_min = min(SHARE_OF_DETAIL * (nearest if step is None else step), SHARE_OF_STD * sigma_data)
    beta_max = max(BETA_MIN, -2 * math.log(-math.expm1(-2 * kl / dimensions)) - BETA_MIN)  # (4)

    varied = np.sort(std[std > 1e-6 * std.max()])
    mean, std = mean.reshape(x.shape[1:]), std.reshape(x.shape[1:])
    return Suggestion(
        points=len(x),
        compared=len(flat),
        dimensions=dimensions,
        constant=dimensions - len(varied),
        mean=center,
        sigma_data=sigma_data,
        std_ratio=float(varied[-1] / varied[0]),
        quartile_ratio=float(varied[-1] / varied[(len(varied) - 1) // 4]),
        sigma_max=sigma_max,
        median_distance=float(np.median(pairs)),
        nearest=nearest,
        step=step,
        sigma_min=sigma_min,
        t_min=_vp_time(sigma_min / sigma_data, beta_max),
        beta_max=beta_max,
        kl=kl,
        vp_kl=prior_kl(VP(beta_min=BETA_MIN, beta_max=beta_max), mean, std),
        snr=math.sqrt(EXCESS_VARIANCE / (1 + EXCESS_VARIANCE)),
        sde=None if sde is None else type(sde).__name__,
        sde_t_min=None if sde is None else _time_of_noise(sde, sigma_min),
        sde_kl=None if sde is None else prior_kl(sde, mean, std),
    )


def prior_kl(
    sde: GaussianSDE, mean: Float[np.ndarray | Array, "*event"], std: Float[np.ndarray | Array, "*event"]
) -> PriorKL:
    """The bounds (6), in nats per dimension, for data whose coordinates [*event] have these means and deviations.

    >>> kl = prior_kl(VP(), np.full(3, 5.0), np.ones(3))
    >>> print(f"{kl.at_least:.1e} {kl.at_most:.1e}")
    5.4e-04 5.6e-04
    """
    like = jnp.asarray(mean)[None]
    alpha, sigma, prior = (
        np.asarray(expand(c, like), np.float64) for c in (sde.alpha(sde.t_max), sde.sigma(sde.t_max), sde.prior_std())
    )

    def divergence(square, variance) -> float:
        excess = variance / prior**2 - 1
        return float(np.mean(0.5 * (square / prior**2 + excess - np.log1p(excess))))

    mean, std = alpha * np.asarray(mean, np.float64), alpha * np.asarray(std, np.float64)
    return PriorKL(divergence(mean**2, std**2 + sigma**2), divergence(mean**2 + std**2, sigma**2))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each coordinate of x [N, d], in float64. ValueError where x is not finite."""
    wrong = sum(np.count_nonzero(~np.isfinite(block)) for block in _blocks(x))
    if wrong:
        raise ValueError(f"suggest: expected finite values, got {wrong} of {x.size} that are not")
    zero = np.zeros(x.shape[1])
    mean = sum((block.sum(axis=0) for block in _blocks(x)), start=zero) / len(x)
    return mean, np.sqrt(sum((((block - mean) ** 2).sum(axis=0) for block in _blocks(x)), start=zero) / len(x))


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` [n, k] in float64, in blocks of rows."""
    size = max(1, BLOCK // rows.shape[1])
    return (rows[i : i + size].astype(np.float64) for i in range(0, len(rows), size))


def _distances(x: np.ndarray) -> np.ndarray:
    """‖x_i − x_j‖ for all rows of x [n, d]: [n, n], from the inner products of the centered points."""
    product = 0.0
    for block in _blocks(x.T):
        block = block - block.mean(axis=1, keepdims=True)
        product = product + block.T @ block
    square = np.diag(product)
    return np.sqrt(np.maximum(square[:, None] + square[None] - 2 * product, 0.0))


def _grid_step(x: np.ndarray) -> float | None:
    """The step of the grid that all values of x [n, d] are on, to 1 % of it; None if they are on none.

    A grid requires that at least every other value has occurred before, and that there are at most LEVELS levels.
    """
    x = x[: max(2, BLOCK // x.shape[1])]
    values = np.unique(x).astype(np.float64)
    if not 1 < len(values) <= min(x.size // 2, LEVELS):
        return None
    gaps = np.diff(values)
    index = np.concatenate([[0.0], np.cumsum(np.round(gaps / gaps.min()))])
    step = (values[-1] - values[0]) / index[-1]
    on_grid = np.all(np.abs(values - values[0] - step * index) < 0.01 * step)
    return float(step) if on_grid and index[-1] < LEVELS else None


def _vp_time(level: float, beta_max: float) -> float:
    """The time at which VP has σ/α = level (3): the root of β_min t + ½ (β_max − β_min) t² = log(1 + level²)."""
    integral = math.log1p(level**2)
    return 2 * integral / (BETA_MIN + math.sqrt(BETA_MIN**2 + 2 * (beta_max - BETA_MIN) * integral))


def _time_of_noise(sde: GaussianSDE, level: float) -> float:
    """The time, also before t_min, at which the process has σ/α = level; 0 if it has more from the start."""
    time = float(sde.replace(t_min=0.0).time_of_log_snr(-2 * math.log(level)))
    return time if time > 1e-15 * sde.t_max else 0.0
