"""Reconstruction of phantoms from few angles and few frequencies, against filtered back projection and total variation.

    python main.py --config=configs/phantoms.py --workdir=runs/phantoms
    python -m benchmarks.medical --workdir=runs/phantoms [--picture docs/medical.png] [--count 8] [--answers 8]

Three problems, each with noise of 1 %: 12 and 30 angles of parallel beams (of the sinogram's maximum), and a fourth of
the lines of the Fourier transform with its full center (of the image's maximum). The methods are

    FBP        scikit-image's iradon, with the best of its filters; for frequencies the zero-filled inverse
    TV         argmin ½‖A x − y‖² + w TV(x) on [0, 1] by accelerated proximal gradients (Beck & Teboulle 2009)   (1)
    posterior  the mean of several answers by MMPS, from the trained prior

Filter and w are the best on four training phantoms. All reconstructions are clipped to [0, 1]. The reconstructions of
a CT and an MR slice of pydicom are shown, not measured: they are no phantoms, so the prior is wrong. It requires
scikit-image and pydicom (`pip install .[dev]`).
"""

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import run_lib
from data_lib import gather
from data_lib.phantoms import phantoms
from eval_lib.restoration import psnr, ssim
from sde_lib.posterior import MMPS, FourierMask, Observation, Project, parallel_beam

FILTERS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")
WEIGHTS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)  # of TV, w/‖A‖²
DEVELOPMENT = 4  # training phantoms on which filter and weight are chosen
INSIDE = 0.02  # pixels of larger true values are inside the outer ellipse


class Task(NamedTuple):
    """A linear measurement of images [n, n, 1] as a matrix [m, n²], its noise, and what FBP is there."""

    name: str
    matrix: np.ndarray
    noise: Callable[[np.ndarray], float]  # noiseless y [N, m] → σ_y
    direct: Callable[[np.ndarray, str], np.ndarray]  # (y [m], filter) → image [n, n]
    filters: tuple[str, ...]


def matrix_of(operator: Any, size: int) -> np.ndarray:
    """The matrix of an operator on images [size, size, 1], float64."""
    units = jnp.eye(size * size).reshape(-1, size, size, 1)
    return np.asarray(jax.jit(lambda x: operator(x))(units), np.float64).reshape(size * size, -1).T


def tomography(count: int, size: int) -> Task:
    """Parallel beams at `count` angles."""
    operator = parallel_beam(count)

    def direct(y: np.ndarray, filter_name: str) -> np.ndarray:
        return filtered_back_projection(y.reshape(size, count), np.asarray(operator.angles), filter_name)

    return Task(f"{count} angles", matrix_of(operator, size), lambda y: 0.01 * float(y.max()), direct, FILTERS)


def filtered_back_projection(sinogram: np.ndarray, angles: np.ndarray, filter_name: str) -> np.ndarray:
    """scikit-image's iradon of our sinogram [n, angles] of an image with n even.

    Its angles run the other way, and its center is the pixel n/2, ours is between pixels. So position k at angle θ is
    our k + (cos θ + sin θ − 1)/2, by cubic splines.
    """
    from scipy.ndimage import shift
    from skimage.transform import iradon

    radians = np.deg2rad(angles)
    shifts = -(np.cos(radians) + np.sin(radians) - 1) / 2
    moved = np.stack([shift(column, by, order=3) for column, by in zip(sinogram.T, shifts, strict=True)], axis=1)
    return iradon(moved, theta=-angles, filter_name=filter_name, circle=True)


def resonance(size: int, seed: int = 0) -> Task:
    """A fourth of the rows of the Fourier transform: half of them around frequency 0, the others at random."""
    center = size // 8
    rows = np.fft.ifftshift(np.arange(size) - size // 2).astype(int)  # frequency of each index
    near = np.argsort(np.abs(rows), kind="stable")
    chosen = np.concatenate([near[:center], np.random.default_rng(seed).choice(near[center:], center, replace=False)])
    mask = np.zeros((size, size))
    mask[chosen] = 1
    matrix = matrix_of(FourierMask(mask=mask), size)
    matrix = matrix[np.any(matrix, axis=1)]
    zero_filled = lambda y, _: (matrix.T @ y).reshape(size, size)  # noqa: E731
    return Task("4-fold frequencies", matrix, lambda y: 0.01, zero_filled, ("",))


def total_variation(task: Task, y: np.ndarray, weight: float, size: int, steps: int = 100) -> np.ndarray:
    """(1), with w = weight · ‖A‖²: an image [size, size]."""
    from skimage.restoration import denoise_tv_chambolle

    A = task.matrix
    length = 1 / np.linalg.norm(A, 2) ** 2
    x = z = np.zeros(size * size)
    momentum = 1.0
    for _ in range(steps):
        moved = (z - length * (A.T @ (A @ z - y))).reshape(size, size)
        new = np.clip(denoise_tv_chambolle(moved, weight=weight, eps=1e-5, max_num_iter=60), 0, 1).ravel()
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        z, x, momentum = new + (momentum - 1) / following * (new - x), new, following
    return x.reshape(size, size)


def measured(task: Task, x: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """(y [N, m] of images [N, n, n, 1], σ_y)."""
    clean = x.reshape(len(x), -1) @ task.matrix.T
    noise_std = task.noise(clean)
    return clean + noise_std * np.random.default_rng(seed).normal(size=clean.shape), noise_std


def quality(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(PSNR, SSIM) of images [N, n, n, 1] in [0, 1], averaged over them."""
    pairs = list(zip(np.clip(found, 0, 1), truth, strict=True))
    return float(np.mean([psnr(a, b, 1.0) for a, b in pairs])), float(np.mean([ssim(a, b, 1.0) for a, b in pairs]))


def best(choices: tuple, reconstruct: Callable, truth: np.ndarray) -> Any:
    """The choice of the highest PSNR on these images."""
    return max(choices, key=lambda choice: quality(reconstruct(choice), truth)[0])


def baselines(task: Task, y: np.ndarray, size: int, development: np.ndarray) -> tuple[dict[str, np.ndarray], dict]:
    """({"FBP", "TV": reconstructions [N, n, n, 1]}, their choices)."""
    fbp = lambda y, choice: np.stack([task.direct(row, choice) for row in y])[..., None]  # noqa: E731
    tv = lambda y, weight: np.stack([total_variation(task, row, weight, size) for row in y])[..., None]  # noqa: E731
    other, _ = measured(task, development, seed=1)
    chosen = {
        "FBP": best(task.filters, lambda c: fbp(other, c), development),
        "TV": best(WEIGHTS, lambda w: tv(other, w), development),
    }
    return {"FBP": np.clip(fbp(y, chosen["FBP"]), 0, 1), "TV": tv(y, chosen["TV"])}, chosen


def answers(model: Any, task: Task, y: np.ndarray, noise_std: float, count: int, iterations: int) -> np.ndarray:
    """Answers [N, count, n, n, 1] by MMPS, all rows in one batch, clipped to [0, 1]."""
    rows = np.repeat(y, count, axis=0)
    observation = Observation(y=rows.astype(np.float32), operator=Project(matrix=task.matrix), noise_std=noise_std)
    x = model.given(observation, MMPS(iterations=iterations)).sample(jax.random.key(0), len(rows), rounded=False)
    return np.clip(np.asarray(x, np.float64).reshape(len(y), count, *x.shape[1:]), 0, 1)


def calibration(x: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Of answers [N, n, ...]: how often mean ± 2 std covers the truth, and how std and error are correlated."""
    inside = truth > INSIDE
    mean, std = x.mean(axis=1), x.std(axis=1, ddof=1)
    error = np.abs(mean - truth)
    return {
        "coverage inside": float(np.mean((error <= 2 * std)[inside])),
        "correlation": float(np.corrcoef(std[inside], error[inside])[0, 1]),
        "rms std / rms error": float(np.sqrt(np.mean(std[inside] ** 2) / np.mean(error[inside] ** 2))),
    }


def slices(size: int) -> dict[str, np.ndarray]:
    """pydicom's CT and MR slice, averaged over boxes to [size, size, 1], the middle 99 % of values as [0, 1]."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    found = {}
    for name, file in {"CT slice": "CT_small.dcm", "MR slice": "MR_small.dcm"}.items():
        x = dcmread(get_testdata_file(file)).pixel_array.astype(float)
        box = x.shape[0] // size
        x = x.reshape(size, box, size, box).mean(axis=(1, 3))
        low, high = np.quantile(x, [0.005, 0.995])
        found[name] = np.clip((x - low) / (high - low), 0, 1)[..., None]
    return found


def picture(rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]], path: str) -> None:
    """Rows of (name, truth, FBP, TV, answers), as [truth | FBP | TV | mean | std | error]."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(rows), 6, figsize=(9, 1.6 * len(rows)), squeeze=False)
    for line, (name, truth, fbp, tv, x) in zip(axes, rows, strict=True):
        mean, std = x.mean(axis=0), x.std(axis=0, ddof=1)
        error = np.abs(mean - truth)
        high = max(2 * float(np.sqrt(np.mean(error**2))), 0.05)
        for axis, image in zip(line[:4], (truth, fbp, tv, mean), strict=True):
            axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        for axis, image in zip(line[4:], (std, error), strict=True):
            axis.imshow(image[..., 0], cmap="magma", vmin=0, vmax=2 * high)
        line[0].set_ylabel(name, fontsize=8)
        for axis, image in zip(line[1:4], (fbp, tv, mean), strict=True):
            axis.set_xlabel(f"{psnr(image, truth, 1.0):.1f} dB", fontsize=8, labelpad=1)
    for axis, title in zip(axes[0], ("truth", "FBP", "TV", "mean of answers", "std", "error"), strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(workdir: str, count: int, answers_each: int, iterations: int, path: str, results: str) -> None:
    model = run_lib.load(workdir)
    size = model.shape[0]
    dataset = phantoms(size=size)
    truth = gather(dataset.test, np.arange(count))["x"].astype(np.float64)
    development = gather(dataset.train, np.arange(DEVELOPMENT))["x"].astype(np.float64)
    found, rows = {}, []
    real = slices(size)
    for task, other in (
        (tomography(12, size), None),
        (tomography(30, size), "CT slice"),
        (resonance(size), "MR slice"),
    ):
        x = truth if other is None else np.concatenate([truth, real[other][None]])
        y, noise_std = measured(task, x, seed=2)
        images, chosen = baselines(task, y, size, development)
        drawn = answers(model, task, y, noise_std, answers_each, iterations)
        images["posterior"] = drawn.mean(axis=1)
        found[task.name] = {name: quality(image[:count], truth) for name, image in images.items()}
        found[task.name]["one answer"] = quality(drawn[:count, 0], truth)
        found[task.name] |= calibration(drawn[:count], truth) | {"noise_std": noise_std, "chosen": chosen}
        print(task.name, json.dumps(found[task.name], indent=1), flush=True)
        shown = (
            [(0, task.name), (1, task.name)] if other is None else [(0, task.name), (count, f"{other},\n{task.name}")]
        )
        rows += [(name, x[i], images["FBP"][i], images["TV"][i], drawn[i]) for i, name in shown]
    if results:
        with open(results, "w") as file:
            json.dump(found, file, indent=1)
    picture(rows, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/phantoms")
    parser.add_argument("--count", type=int, default=8, help="test phantoms")
    parser.add_argument("--answers", dest="answers_each", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=10, help="of MMPS")
    parser.add_argument("--picture", dest="path", default="medical.png")
    parser.add_argument("--results", default="", help="a JSON file of the figures")
    main(**vars(parser.parse_args()))
