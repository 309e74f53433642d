"""Posterior methods on mixtures with exact scores: distance to the exact posterior against score evaluations.

    python -m benchmarks.posterior [--dimension 8 80 800] [--results posterior.json] [--picture docs/posterior.png]

25 components N(μ_k, s² I), s = 1/8, with means (i, j, i, j, …), i and j in −2 … 2, and random weights, under VP. With
y = A x_0 + σ_y n, S = s² A Aᵀ + σ_y² I, a draw of k with the weights w_k N(y; A μ_k, S), and normal z and n,

    x = u + s² Aᵀ S⁻¹ (y − A u − σ_y n),   u = μ_k + s z                                                   (1)

is an exact draw of p(x | y), in any dimension. There are two observations: "project", four random directions with
σ_y = 0.1, and "coordinate", the first number of x with σ_y = 0.05, which Replacement takes as exact. The distance is
W₁ to exact draws, averaged over 100 random unit directions and four y. The floor is that of as many exact draws.

The mixtures are those of Boys et al. 2023 (arXiv:2310.06721, section 5.1), divided by 8.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sampler_problems import sliced_wasserstein
from sde_lib import VP, LogSNRGrid, Sampler, as_is, sample_keys
from sde_lib.parameterization import x0_hat
from sde_lib.particles import DAPS, TwistedSMC
from sde_lib.posterior import (
    DPS,
    DTMPD,
    JFPS,
    MMPS,
    DPSGaussian,
    Observation,
    PiGDM,
    Project,
    observed,
    posterior_score,
)
from sde_lib.solvers import Ancestral

STD = 1 / 8
STEPS = (25, 100, 400)
YS, DRAWS = 4, 200  # observations, and samples of each
SDE, GRID = VP(), LogSNRGrid(t_end=1e-3)
REPEATS, INNER = 5, 24
PARTICLES = (10, 50, 200)


class Mixture(NamedTuple):
    """Σ_k w_k N(μ_k, s² I): means [25, d], weights [25]."""

    means: np.ndarray
    weights: np.ndarray

    @property
    def std(self) -> float:
        """Of all coordinates together."""
        center = self.weights @ self.means
        return float(np.sqrt(STD**2 + np.mean(self.weights @ (self.means - center) ** 2)))

    def joint(self, x: jax.Array, t: Any) -> tuple[jax.Array, Any]:
        """(log w_k + log N(x; α μ_k, v), up to a constant [B, 25]; v = α² s² + σ²)."""
        alpha, variance = SDE.alpha(t), (SDE.alpha(t) * STD) ** 2 + SDE.sigma(t) ** 2
        means = jnp.asarray(self.means, x.dtype)
        products = alpha * x @ means.T - 0.5 * alpha**2 * jnp.sum(means**2, axis=1)[None]
        return jnp.log(jnp.asarray(self.weights, x.dtype))[None] + products / variance, variance

    def score(self, x: jax.Array, t: Any) -> jax.Array:
        """∇log p_t(x)."""
        joint, variance = self.joint(x, t)
        return (SDE.alpha(t) * jax.nn.softmax(joint, axis=1) @ jnp.asarray(self.means, x.dtype) - x) / variance

    def log_likelihood(self, x: jax.Array, t: Any, A: jax.Array, y: jax.Array, noise_std: float) -> jax.Array:
        """log p_t(y | x) [B], exact: given k, x_0 is normal with covariance (s² σ²/v) I."""
        joint, variance = self.joint(x, t)
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        means = (sigma**2 * jnp.asarray(self.means, x.dtype)[None] + alpha * STD**2 * x[:, None]) / variance
        covariance = STD**2 * sigma**2 / variance * A @ A.T + noise_std**2 * jnp.eye(len(A), dtype=x.dtype)
        logp = log_normal(y[:, None] - jnp.einsum("md,bkd->bkm", A, means), covariance)
        return jax.nn.logsumexp(jax.nn.log_softmax(joint, axis=1) + logp, axis=1)


def log_normal(residual: jax.Array, covariance: jax.Array) -> jax.Array:
    """log N(residual; 0, covariance) over the last axis, up to a constant."""
    solved = jnp.einsum("...m,mn->...n", residual, jnp.linalg.inv(covariance))
    return -0.5 * (jnp.sum(residual * solved, axis=-1) + jnp.linalg.slogdet(covariance)[1])


def mixture(dimension: int) -> Mixture:
    i, j = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij")
    means = np.tile(np.stack([i.ravel(), j.ravel()], axis=1), (1, dimension // 2)).astype(float)
    return Mixture(means, np.random.default_rng(0).dirichlet(np.ones(25)))


class Problem(NamedTuple):
    """A mixture with YS observations y [YS, m] of draws from it."""

    data: Mixture
    matrix: np.ndarray
    y: np.ndarray
    noise_std: float
    distance: Callable[[np.ndarray], float]
    floor: float


def exact(data: Mixture, A: np.ndarray, y: np.ndarray, noise_std: float, count: int, seed: int) -> np.ndarray:
    """(1): `count` draws of p(x | y), of one y [m]."""
    draw = np.random.default_rng(seed)
    S = STD**2 * A @ A.T + noise_std**2 * np.eye(len(A))
    residual = y - data.means @ A.T
    logits = np.log(data.weights) - 0.5 * np.sum(residual @ np.linalg.inv(S) * residual, axis=1)
    weights = np.exp(logits - logits.max())
    k = draw.choice(len(weights), size=count, p=weights / weights.sum())
    u = data.means[k] + STD * draw.normal(size=(count, data.means.shape[1]))
    return u + (y - u @ A.T - noise_std * draw.normal(size=(count, len(A)))) @ np.linalg.solve(S, STD**2 * A)


def problem(dimension: int, kind: str) -> Problem:
    data, draw = mixture(dimension), np.random.default_rng(1)
    if kind == "project":
        A, noise_std = draw.normal(size=(4, dimension)) / np.sqrt(dimension), 0.1
    else:
        A, noise_std = np.eye(1, dimension), 0.05
    k = draw.choice(25, size=YS, p=data.weights)
    truth = data.means[k] + STD * draw.normal(size=(YS, dimension))
    y = truth @ A.T + noise_std * draw.normal(size=(YS, len(A)))
    directions = draw.normal(size=(100, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    draws = lambda i, count, seed: exact(data, A, y[i], noise_std, count, seed)  # noqa: E731
    each = [sliced_wasserstein(draws(i, 10 * DRAWS, 10), directions) for i in range(YS)]

    def distance(x: np.ndarray) -> float:
        return float(np.mean([one(part) for one, part in zip(each, x.reshape(YS, DRAWS, -1), strict=True)]))

    floor = np.mean([distance(np.stack([draws(i, DRAWS, seed) for i in range(YS)])) for seed in range(20, 25)])
    return Problem(data, A, y, noise_std, distance, float(floor))


def methods(problem: Problem, kind: str) -> dict[str, Callable[[int], Callable]]:
    """Name → (evaluations → (key → samples [YS · DRAWS, d]))."""
    data, A, noise_std = problem.data, jnp.asarray(problem.matrix, jnp.float32), problem.noise_std
    y, shape = jnp.repeat(jnp.asarray(problem.y, jnp.float32), DRAWS, axis=0), problem.data.means.shape[1:]
    observation = Observation(y=y, operator=Project(matrix=problem.matrix), noise_std=noise_std)

    def of_score(score: Callable, solver: Any = Ancestral(), repeats: int = 1) -> Callable[[int], Callable]:
        def with_steps(n: int) -> Callable:
            sampler = Sampler(solver=solver, grid=GRID, num_steps=n // repeats, denoise=as_is)
            return lambda key: sampler(sample_keys(key, jnp.arange(YS * DRAWS)), SDE, score, shape)

        return with_steps

    def guided(method: Any) -> Callable[[int], Callable]:
        return of_score(posterior_score(data.score, SDE, observation, method))

    def exact_score(x: jax.Array, t: Any) -> jax.Array:
        pull = jax.grad(lambda x: jnp.sum(data.log_likelihood(x, t, A, y, noise_std)))(x)
        return data.score(x, t) + pull

    def twist(x: jax.Array, t: Any) -> jax.Array:
        """PiGDM's: log N(y; A x̂, r² A Aᵀ + σ_y²)."""
        variance, s2 = SDE.sigma(t) ** 2, data.std**2
        spread = variance * s2 / (variance + SDE.alpha(t) ** 2 * s2)
        found = x0_hat(SDE, x, t, data.score(x, t)) @ A.T
        return log_normal(y - found, spread * A @ A.T + noise_std**2 * jnp.eye(len(A), dtype=x.dtype))

    def log_likelihood(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum((y - x @ A.T) ** 2, axis=1) / noise_std**2

    def smc(particles: int) -> Callable[[int], Callable]:
        def with_steps(n: int) -> Callable:
            sampler = TwistedSMC(
                twist=twist, log_likelihood=log_likelihood, grid=GRID, num_steps=n, particles=particles
            )
            keys = lambda key: sample_keys(key, jnp.arange(YS * DRAWS // particles))  # noqa: E731
            return lambda key: sampler.run(keys(key), SDE, data.score, shape).samples

        return with_steps

    def daps(inner: Literal["exact", "gaussian"], cost: int) -> Callable[[int], Callable]:
        precision = float(np.linalg.norm(problem.matrix, 2) ** 2 / noise_std**2 + 1 / STD**2)
        common = {"log_likelihood": log_likelihood, "precision": precision, "grid": GRID}

        def with_steps(n: int) -> Callable:
            sampler = DAPS(**common, inner=inner, inner_steps=INNER, step_size=0.3, num_steps=max(1, n // cost))
            return lambda key: sampler(sample_keys(key, jnp.arange(YS * DRAWS)), SDE, data.score, shape)

        return with_steps

    found = {
        "the exact score": of_score(exact_score),
        "MMPS": guided(MMPS(iterations=len(A), solver="cg")),
        "PiGDM": guided(PiGDM(data_std=data.std)),
        "DTMPD": guided(DTMPD()),
        "JFPS": guided(JFPS(covariance=data.std**2)),
        "DPSGaussian": guided(DPSGaussian()),
        **{f"DPS, scale {scale}": guided(DPS(scale=float(scale))) for scale in (1, 10, 100)},
        **{f"TwistedSMC, {K} particles": smc(K) for K in PARTICLES},
        "DAPS, gaussian": daps("gaussian", 1),
        f"DAPS, exact, {INNER} inner steps": daps("exact", 1 + INNER),
    }
    if kind == "coordinate":
        known = observation.replace(noise_std=0.0)
        found["Replacement"] = of_score(data.score, observed(Ancestral(), known))
        repainted = observed(Ancestral(), known, repeats=REPEATS)
        found[f"RePaint, {REPEATS} repeats"] = of_score(data.score, repainted, REPEATS)
    return found


def measure(dimension: int, kind: str, steps: tuple[int, ...] = STEPS) -> dict[str, Any]:
    """{"floor": …, "rows": {method: {evaluations: distance}}}."""
    chosen = problem(dimension, kind)
    result: dict[str, Any] = {"floor": chosen.floor, "rows": {}}
    for name, make in methods(chosen, kind).items():
        row, start = result["rows"].setdefault(name, {}), time.perf_counter()
        for n in steps:
            x = np.asarray(jax.jit(make(n))(jax.random.key(0)), np.float64)
            row[str(n)] = chosen.distance(x) if np.isfinite(x).all() else float("inf")
        seconds = time.perf_counter() - start
        print(f"{dimension} {kind}, {name}: {row} ({seconds:.0f} s)", flush=True)
    return result


def markdown(results: dict) -> str:
    """A table with a row per method: distances divided by the floor."""
    columns = [(name, n) for name, result in results.items() for n in next(iter(result["rows"].values()))]
    heads = [f"{name.replace(' ', ', ')}: {n}" for name, n in columns]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(columns)]
    for method in dict.fromkeys(m for result in results.values() for m in result["rows"]):
        values = [results[name]["rows"].get(method, {}).get(n) for name, n in columns]
        cells = [
            "" if v is None else f"{v / results[name]['floor']:.3g}"
            for v, (name, _) in zip(values, columns, strict=True)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines.append("| floor | " + " | ".join(f"{results[name]['floor']:.3g}" for name, _ in columns) + " |")
    return "\n".join(lines)


def plot(results: dict, path: str) -> None:
    """A panel per problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = (len(results) + 1) // 2
    figure, axes = plt.subplots(2, columns, figsize=(4 * columns, 7), sharey=True, sharex=True, squeeze=False)
    names = list(dict.fromkeys(m for result in results.values() for m in result["rows"]))
    for axis, (title, result) in zip(axes.T.ravel(), results.items(), strict=False):
        axis.axhline(1, color="0.6", lw=1)
        for i, name in enumerate(names):
            row = result["rows"].get(name, {})
            values = [row[n] / result["floor"] for n in row]
            axis.plot([int(n) for n in row], values, "--" if i >= 10 else "-", marker="osv^D"[i % 5], ms=4,
                      color=f"C{i % 10}", label=name)  # fmt: skip
        axis.set(xscale="log", yscale="log", title=title, xlabel="score evaluations")
        axis.set_xticks(STEPS, list(map(str, STEPS)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("distance / floor")
    axes[0, -1].legend(*axes[1, 0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(dimension: list[int], results: str, picture: str) -> None:
    file = Path(results)
    found = json.loads(file.read_text()) if file.exists() else {}
    for kind in ("project", "coordinate"):
        for d in dimension:
            name = f"{d} {kind}"
            if name not in found:
                found[name] = measure(d, kind)
                file.write_text(json.dumps(found, indent=1))
    print(markdown(found))
    plot(found, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=int, nargs="+", default=[8, 80, 800])
    parser.add_argument("--results", default="posterior.json", help="file of the measurements; none in it is repeated")
    parser.add_argument("--picture", default="posterior.png")
    main(**vars(parser.parse_args()))
