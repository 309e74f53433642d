"""Test problems for samplers: exact scores of mixtures, and a trained network, each with a distance and its floor."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import run_lib
from data_lib import digits, gather
from eval_lib import frechet_distance, moments
from sde_lib import VP, GaussianMixture, brownian_path, redrawn, sample_keys
from sde_lib.node import PyTreeNode, static


class Exact(PyTreeNode):
    """A mixture's exact score under an SDE, with the interface of a ScoreModel."""

    data: GaussianMixture
    sde: VP = VP()
    shape: tuple[int, ...] = static(())

    def score(self, x, t):
        return self.data.score_fn(self.sde)(x, t)


class Problem(NamedTuple):
    """A model to sample from, and the distance of samples [count, *shape] to the data, with that of exact samples."""

    model: PyTreeNode
    count: int
    distance: Callable[[jax.Array], float]
    floor: float  # the distance of `count` exact samples
    spread: float  # relative standard deviation of the floor over draws
    budgets: tuple[int, ...]
    long: int  # the first samplers of the table, which are also measured at thousands of evaluations
    noise: Callable  # AdaptiveSDE's


def sliced_wasserstein(reference: np.ndarray, directions: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function x [N, D] → mean over directions of W₁ between x and the reference [m N, D], both projected."""
    sorted_reference = np.sort(reference @ directions.T, axis=0)

    def distance(x: np.ndarray) -> float:
        projected = np.sort(np.asarray(x, np.float64) @ directions.T, axis=0)
        return float(np.mean(np.abs(projected[:, None] - sorted_reference.reshape(len(x), -1, len(directions)))))

    return distance


def plane() -> GaussianMixture:
    """A mixture of 8 Gaussians on a circle, with different weights and widths."""
    angle = 2 * jnp.pi * jnp.arange(8) / 8
    stds = jnp.linspace(0.05, 0.2, 8)[:, None] * jnp.ones((8, 2))
    weights = jnp.arange(1, 9) / 36
    return GaussianMixture(means=jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1), stds=stds, weights=weights)


def wide() -> GaussianMixture:
    """A mixture of 10 Gaussians in 64 dimensions; standard deviations grow from about 0.02 to 1 with the coordinate."""
    scales = jnp.geomspace(0.02, 1.0, 64)
    center, width = jax.random.split(jax.random.key(5))
    stds = scales * jax.random.uniform(width, (10, 64), minval=0.5, maxval=1.0)
    return GaussianMixture(means=2 * scales * jax.random.normal(center, (10, 64)), stds=stds, weights=jnp.full(10, 0.1))


def mixture(data: GaussianMixture, count: int, budgets, noise) -> Problem:
    """Projects onto the axes and onto random directions, each in units of the data's standard deviation along it."""
    exact = jax.jit(lambda seed, n: data.sample(sample_keys(jax.random.key(seed), jnp.arange(n))), static_argnums=1)
    reference, d = np.asarray(exact(0, 10 * count), np.float64), data.means.shape[1]
    directions = np.concatenate([np.eye(d), np.random.default_rng(0).normal(size=(max(d, 32), d))])
    directions /= np.std(reference @ directions.T, axis=0)[:, None]
    distance = sliced_wasserstein(reference, directions)
    floors = [distance(np.asarray(exact(seed, count))) for seed in range(1, 21)]
    floor, spread = np.mean(floors), np.std(floors) / np.mean(floors)
    model = Exact(data=data, shape=(d,))
    return Problem(model, count, distance, float(floor), float(spread), budgets, 5, noise)


def trained_digits(workdir: str, count: int) -> Problem:
    model, dataset = run_lib.load(workdir), digits()
    train, test = (
        model.transform.forward(gather(part, np.arange(len(part)))["x"]).reshape(len(part), -1) for part in dataset
    )
    reference, generator = moments(train), np.random.default_rng(0)

    def distance(x) -> float:
        """Fréchet distance in pixels, mean over groups of as many samples as there are test digits."""
        pixels = model.transform.from_uint8(model.transform.to_uint8(np.asarray(x))).reshape(len(x), -1)
        return float(np.mean([frechet_distance(*moments(group), *reference) for group in groups(pixels, len(test))]))

    floor, real = frechet_distance(*moments(test), *reference), np.concatenate([train, test])
    splits = [generator.permutation(real) for _ in range(40)]
    floors = [frechet_distance(*moments(x[: len(test)]), *moments(x[len(test) :])) for x in splits]
    spread = float(np.std(floors) / floor)
    return Problem(model, count, distance, floor, spread, (10, 20, 50, 120), 1, redrawn)


def groups(x: np.ndarray, size: int) -> np.ndarray:
    size = min(len(x), size)
    return x[: len(x) // size * size].reshape(-1, size, x.shape[-1])


PROBLEMS = {
    "mixture_2d": lambda workdir: mixture(plane(), 4000, (6, 10, 20, 50, 200), brownian_path),
    "mixture_64d": lambda workdir: mixture(wide(), 4000, (6, 10, 20, 50, 200), redrawn),
    "digits": lambda workdir: trained_digits(workdir, 500),
}
