"""Are samples of small images as good as real images? Four measures, each with its value for test images.

Pixels are the features, so the figures are meaningful for small images of one domain, such as handwritten digits. The
value for test images is the floor, which samples from the true distribution would reach.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eval_lib.classifier import Classifier
from eval_lib.frechet import frechet_distance, moments
from eval_lib.requires import requires

Report = dict[str, Any]


@requires("label")
def small_image_report(
    samples: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    train_label: np.ndarray,
    test_label: np.ndarray,
    threshold: float = 0.9,
    seed: int = 0,
    noun: str = "image",
    splits: int = 40,
) -> Report:
    """Samples, training and test images [N, ...] in model space, labels [N] → figures that JSON can hold.

    counts      number of samples, training and test images, and the size of the groups below
    frechet     Fréchet distance to the training images, in pixels: mean over groups of samples, with its spread.
                The distance falls with the number of images, so a group has as many samples as there are test images.
                "resplit" is the distance of test images over `splits` random splits of the real ones: mean and spread.
    confident   fraction of images that a classifier assigns to one class with probability above `threshold`
    classes     number of samples in each predicted class, with the fraction of test images in it
    nearest     median Euclidean distance to the nearest training image: near 0 for copies of training images
    accuracy    of the classifier, a small network trained on the training images, on test images
    noun        the argument `noun`, one of the images in the words of the table: digit, for example
    text        the table of `markdown`

    "ratio" is samples / test. ValueError for shapes or lengths that do not fit, and for values that are not finite.
    """
    images = {"samples": samples, "train": train, "test": test}
    samples, train, test = _flat(images)
    _check_labels(train, train_label, "train")
    _check_labels(test, test_label, "test")
    classify = Classifier(train, np.asarray(train_label), seed)
    probability = {"samples": classify(samples), "test": classify(test)}
    size = min(len(samples), len(test))
    report = {
        "counts": {**{name: len(x) for name, x in images.items()}, "group": size},
        "frechet": _frechet(samples, train, test, size, seed, splits),
        "confident": _confident(probability, threshold),
        "classes": _classes(probability, classify.classes),
        "nearest": _compared(_nearest(samples, train), _nearest(test, train)),
        "accuracy": _accuracy(classify.classes[probability["test"].argmax(1)], test_label),
        "noun": noun,
    }
    return {**report, "text": markdown(report)}


def markdown(report: Report) -> str:
    """The report as a table: figure, samples, test images, their ratio and what it should be.

    The report's `noun` replaces "image".
    """
    frechet, confident, nearest, counts = (report[k] for k in ("frechet", "confident", "nearest", "counts"))
    noun, resplit = report.get("noun", "image"), frechet["resplit"]
    rows = [
        f"| | samples | test {noun}s | samples / test (ideal) |",
        "|---|--:|--:|---|",
        f"| number, compared with {counts['train']} training {noun}s | {counts['samples']} | {counts['test']} | |",
        f"| Fréchet distance in pixels to the training {noun}s, {counts['group']} each "
        f"| {frechet['samples']:.3f} ± {frechet['spread']:.3f} | {frechet['test']:.3f} "
        f"| {frechet['ratio']:.2f} (1; higher is worse) |",
        f"| the same for {resplit.get('splits', 40)} random splits of the real {noun}s | "
        f"| {resplit['mean']:.3f} ± {resplit['spread']:.3f} "
        f"| {frechet['samples'] / resplit['mean']:.2f} (1) |",
        f"| fraction with confidence above {confident['threshold']:g} | {confident['samples']:.1%} "
        f"| {confident['test']:.1%} | {confident['ratio']:.2f} (1; lower is worse) |",
        f"| distance to the nearest training {noun}, median | {nearest['samples']:.3f} "
        f"| {nearest['test']:.3f} | {nearest['ratio']:.2f} (1; near 0 for copies) |",
    ]
    total = counts["samples"]
    for name, count, share in zip(*report["classes"].values(), strict=True):
        ratio = f"{count / total / share:.2f} (1)" if share else ""
        rows.append(f"| classified as {name} | {count / total:.1%} | {share:.1%} | {ratio} |")
    rows.append(f"| accuracy of the classifier | | {report['accuracy']:.1%} | |")
    return "\n".join(rows) + "\n"


def _frechet(samples: np.ndarray, train: np.ndarray, test: np.ndarray, size: int, seed: int, splits: int) -> Report:
    generator = np.random.default_rng(seed)
    reference = moments(train)
    groups = generator.permutation(samples)[: len(samples) // size * size].reshape(-1, size, samples.shape[1])
    distances = [frechet_distance(*moments(group), *reference) for group in groups]
    floor = frechet_distance(*moments(generator.permutation(test)[:size]), *reference)
    again = _resplit_floors(np.concatenate([train, test]), size, len(train), generator, splits)
    expected = {"mean": float(np.mean(again)), "spread": float(np.std(again)), "splits": splits}
    return {**_compared(float(np.mean(distances)), floor), "spread": float(np.std(distances)), "resplit": expected}


def _resplit_floors(
    real: np.ndarray, size: int, rest: int, generator: np.random.Generator, repeats: int
) -> list[float]:
    """The floor for other random splits of the real images, of the same sizes: how much it depends on the split."""
    splits = (generator.permutation(real) for _ in range(repeats))
    return [frechet_distance(*moments(x[:size]), *moments(x[size : size + rest])) for x in splits]


def _accuracy(predicted: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean(predicted == np.asarray(label)))


def _confident(probability: Mapping[str, np.ndarray], threshold: float) -> Report:
    share = {name: float(np.mean(p.max(1) > threshold)) for name, p in probability.items()}
    return {**_compared(**share), "threshold": threshold}


def _classes(probability: Mapping[str, np.ndarray], classes: np.ndarray) -> Report:
    count = {name: np.bincount(p.argmax(1), minlength=len(classes)) for name, p in probability.items()}
    share = count["test"] / count["test"].sum()
    return {"label": classes.tolist(), "samples": count["samples"].tolist(), "test": share.tolist()}


def _nearest(x: np.ndarray, train: np.ndarray) -> float:
    """The neighbor is found by |x|² + |y|² − 2 x·y; its distance is computed from x − y, so 0 exactly for a copy."""
    from sklearn.metrics import pairwise_distances_argmin  # a second to import

    return float(np.median(np.linalg.norm(x - train[pairwise_distances_argmin(x, train)], axis=1)))


def _compared(samples: float, test: float) -> Report:
    ratio = samples / test if test else float("inf")
    return {"samples": float(samples), "test": float(test), "ratio": float(ratio)}


def _flat(images: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Each array as [N, pixels] in float64. ValueError for shapes that differ, and for values that are not finite."""
    images = {name: np.asarray(x, np.float64) for name, x in images.items()}
    shapes = {name: x.shape for name, x in images.items()}
    if min(map(len, shapes.values())) == 0 or len({shape[1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"samples, train and test must be [N, ...] of one image shape, got {shapes}")
    for name, x in images.items():
        if len(x) < 2:
            raise ValueError(f"{name}: at least 2 images are required, got {len(x)}")
        if bad := np.count_nonzero(~np.isfinite(x)):
            raise ValueError(f"{name}: {bad} of {x.size} values are not finite")
    return [x.reshape(len(x), -1) for x in images.values()]


def _check_labels(images: np.ndarray, label: np.ndarray, name: str) -> None:
    if np.shape(label) != (len(images),):
        raise ValueError(f"{name}_label must be [{len(images)}], one for each image, got shape {np.shape(label)}")
