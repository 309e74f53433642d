"""Is the prior what the data become at t_max, and do its draws and its density have the same distribution?

For normal data the marginal q = N(α m, α² s² + σ²) is exact, and KL(q ‖ prior) is a mean over draws of q. The prior
must fit other data too. For it does not contain the mean of the data: with the exact score and the probability flow,
samples have the mean m − (α s/√(α² s² + σ²)) m. So little of the data may be left at t_max: at most 1 % of their
deviation s, as α or relative to the marginal's deviation. With α = 1 they never shrink; then σ ≥ 10 s must hide them.
For s = σ/10, the variance of the marginal exceeds the prior's by 1 %. Stein's
identity tests whether the prior's draws and density have the same distribution p, whatever its normalizer. It holds if
p is smooth and vanishes at infinity. The normalizer is an importance-weighted mean:

    E_p[∂_i log p] = 0,   E_p[(x_i − c) ∂_i log p] = −1,                                                (4)
    ∫ p dx = E_r[p(x)/r(x)],   r normal, with the moments of the prior's draws.                         (5)

A drift that is not linear has no kernel. Then paths from the data are simulated, and their ends compared with the
prior's draws by the energy distance (Székely & Rizzo 2013, J. Stat. Plan. Inference 143, 1249), relative to its first
term:

    1 − (E|X − X'| + E|Y − Y'|)/(2 E|X − Y|),   0 if equal; 0.05 for normals whose deviations differ by 2.  (6)
"""

import math
from collections.abc import Generator, Iterator

import numpy as np

from sde_lib.check.case import Case, brief, density_program, draws_program, paths_program, relative
from sde_lib.check.report import ENERGY, ERRORS, EXACT, LEFT, LOUD, NATS, Row


def check_prior_of_kernel(case: Case) -> Iterator[Row]:
    """Is the prior what normal data become, in its draws and in its density?"""
    c = case.at(np.full(1, case.interval[1]))
    alpha, sigma = c["alpha"][0], c["sigma"][0]
    mean, variance = alpha * case.mean, (alpha * case.std) ** 2 + sigma**2
    yield _data_left(case, alpha, sigma)
    x = yield from _prior_draws(case)
    center, spread = x.mean(axis=0), x.var(axis=0)
    kl = 0.5 * ((variance + (mean - center) ** 2) / spread - 1 - np.log(variance / spread))
    hint = f"the marginal at t_max has deviation {brief(np.sqrt(variance))}, the draws have {brief(np.sqrt(spread))}: "
    hint += "look at prior_sample (prior_std), or at t_max"
    draws = Row("KL(marginal at t_max ‖ prior_sample)", float(np.max(kl)), NATS + 20 / len(x), hint)
    yield draws
    if draws.ok and case.data is None:
        yield from _other_data(case, alpha, sigma, center, spread)
    log_norm = yield from _prior_density(case, x, draws.ok)
    z = case.normal(len(x))
    log_q = _log_normal(z, np.broadcast_to(np.sqrt(variance), case.shape))
    log_p = case.run(density_program, mean + np.sqrt(variance) * z)[0] - log_norm
    hint = "the density does not fit the marginal at t_max: look at prior_logp (prior_std), or at t_max"
    density = _estimate("KL(marginal at t_max ‖ prior_logp)", (log_q - log_p) / math.prod(case.shape), NATS, hint)
    yield density
    if draws.ok and density.ok:
        yield _prior_moments(case, x, mean, np.sqrt(variance))


def _prior_moments(case: Case, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Row:
    """Do the prior's mean and deviation agree with the marginal's to 1 %?

    They are those of the line through ∇log p at draws x: exact for a normal density, and by (4) right for any other.
    """
    score = case.run(density_program, x)[1]
    z, center = x - x.mean(axis=0), score.mean(axis=0)
    slope = np.mean(z * score, axis=0) / np.mean(z**2, axis=0)
    found = x.mean(axis=0) - center / slope, 1 / np.sqrt(np.maximum(-slope, 1e-30))
    found_mean, found_std = (np.round(a, 6) + 0.0 for a in found)
    rest = np.std((score - center - slope * z) * z, axis=0) / np.sqrt(len(x))
    error = np.maximum(np.abs(found_std / std - 1), np.abs(found_mean - mean) / std)
    hint = f"the prior has mean {brief(found_mean)} and deviation {brief(found_std)}, the marginal at t_max "
    hint += f"{brief(mean)} and {brief(std)}: look at prior_std, at t_max, or at the noise (beta_max, sigma_max)"
    return Row(
        "the prior's moments are the marginal's", float(np.max(error)), LEFT + ERRORS * float(np.max(rest)), hint
    )


def _data_left(case: Case, alpha: np.ndarray, sigma: np.ndarray) -> Row:
    """Is little of the data left at t_max?"""
    std = np.where(case.std > 0, case.std, np.sqrt(np.mean(case.std**2)))
    marginal = np.sqrt((alpha * std) ** 2 + sigma**2)
    left = np.where(sigma >= LOUD * std * (1 - 1e-6), 0.0, alpha * np.minimum(1.0, std / marginal))
    hint = f"{np.max(left):.2g} of the data's deviation is left at t_max = {case.interval[1]:.3g}, where α is "
    hint += f"{brief(alpha)} and σ {brief(sigma)}: increase t_max or the noise (beta_max, sigma_max)"
    return Row("the data are gone at t_max", float(np.max(left)), LEFT, hint)


def _other_data(case: Case, alpha: np.ndarray, sigma: np.ndarray, center, spread) -> Iterator[Row]:
    """Does the prior, with this mean and variance, also fit data of another mean and deviation?"""
    for shift, factor in ((0.7, 0.3), (-2.0, 2.0)):
        m, s = case.mean + shift * case.std, factor * case.std
        mean, variance = alpha * m, (alpha * s) ** 2 + sigma**2
        kl = float(np.max(0.5 * ((variance + (mean - center) ** 2) / spread - 1 - np.log(variance / spread))))
        reached = m + s / np.sqrt(variance) * (center - mean)
        hint = f"with the exact score, data of mean {brief(m)} would be sampled with mean {brief(reached)}: increase "
        hint += f"t_max, which is {case.interval[1]:.3g}, or the noise (beta_max, sigma_max)"
        yield Row(f"the same for data of mean {brief(m)} and deviation {brief(s)}", kl, NATS, hint)


def check_prior_of_paths(case: Case) -> Iterator[Row]:
    """Is the prior what the data become? (6)"""
    x = yield from _prior_draws(case)
    t, count = np.unique(case.times(100)), int(np.clip(2**17 // math.prod(case.shape), 128, 2000))
    start = case.mean + case.std * case.normal(count)
    if case.data is not None:
        start = case.data[np.random.default_rng(case.seed).integers(len(case.data), size=count)]
    ends, finite = case.run(paths_program, start, t, case.keys(count), x64=False)
    hint = f"they blow up at t = {t[1:][np.argmin(finite)]:.3g}: look at drift (its sign?), or at the data's deviation"
    yield Row("simulated paths stay finite", float(np.mean(~np.isfinite(ends))), 0.0, hint)
    if not np.all(np.isfinite(ends)):
        return
    hint = f"they end with mean {brief(ends.mean(axis=0))} and deviation {brief(ends.std(axis=0))}, the draws have "
    hint += f"{brief(x.mean(axis=0))} and {brief(x.std(axis=0))}: look at prior_sample, at drift, or at t_max"
    draws = Row("simulated paths end as prior_sample draws", _energy_distance(ends, x[:count]), ENERGY, hint)
    yield draws
    yield from _prior_density(case, x, draws.ok)


def _prior_draws(case: Case) -> Generator[Row, None, np.ndarray]:
    keys = case.keys(int(np.clip(2**20 // math.prod(case.shape), 2000, 2**14)))
    x = case.run(draws_program, keys, case.shape)
    error = relative(case.run(draws_program, keys[::-1], case.shape)[::-1], x)
    hint = "the keys in another order give other draws: look at prior_sample"
    yield Row("row i of prior_sample is a function of keys[i]", error, EXACT, hint)
    return x


def _prior_density(case: Case, x: np.ndarray, draws_fit: bool) -> Generator[Row, None, float]:
    """(4) and (5) on draws x of the prior; returns log ∫ p dx, or 0 where it cannot be estimated."""
    mean, std = x.mean(axis=0), x.std(axis=0)
    score = std * case.run(density_program, x)[1]
    stein = np.stack([score, (x - mean) / std * score + 1], axis=-1)
    hint = f"draws and density have different distributions: look at {'prior_logp' if draws_fit else 'prior_sample'}"
    same = _estimate("Stein's identity for prior_sample and prior_logp", stein, 0.02, hint)
    yield same
    wider = std * (1 + 0.5 / math.sqrt(math.prod(case.shape)))
    z = np.random.default_rng(case.seed + 1).normal(size=x.shape)
    log_weight = case.run(density_program, mean + wider * z)[0] - _log_normal(z, wider)
    weight = np.exp(log_weight - np.max(log_weight))
    if not same.ok or not np.sum(weight) ** 2 > 300 * np.sum(weight**2):  # 300 effective draws are needed
        return 0.0
    log_norm = float(np.max(log_weight) + np.log(np.mean(weight)))
    spread = ERRORS * float(np.std(weight) / np.mean(weight)) / math.sqrt(len(x))
    hint = f"the log density is {log_norm:.3g} nats too large everywhere: look at prior_logp"
    yield Row("∫ exp(prior_logp) dx = 1", abs(log_norm), NATS * math.prod(case.shape) + spread, hint)
    return log_norm


def _log_normal(z: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Log density [N] of N(0, std²) at std z."""
    return np.sum((-0.5 * (z**2 + np.log(2 * math.pi * std**2))).reshape(len(z), -1), axis=1)


def _estimate(name: str, draws: np.ndarray, tolerance: float, hint: str) -> Row:
    """The means of draws [N, ...], compared with 0."""
    errors = np.std(draws, axis=0) / math.sqrt(len(draws))
    return Row(name, float(np.max(np.abs(np.mean(draws, axis=0)))), tolerance + ERRORS * float(np.max(errors)), hint)


def _energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """(6), with coordinates in units of x's deviation.

    The zero distance of a draw to itself is left out, so that the estimate is unbiased.
    """
    scale = np.maximum(x.std(axis=0), 1e-30)
    x, y = (a.reshape(len(a), -1) for a in (x / scale, y / scale))

    def total(a, b):
        squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * a @ b.T
        return np.sum(np.sqrt(np.maximum(squares, 0.0)))

    within = sum(total(a, a) / (len(a) * (len(a) - 1)) for a in (x, y))
    return float(1 - within / (2 * total(x, y) / (len(x) * len(y))))
