"""Samples against data through a feature function: statistics with their protocol, metrics over several seeds."""

import inspect
import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.spec import ConfigError, build, to_json
from data_lib import Dataset, Source, eval_batches, gather
from eval_lib import Statistics, require_comparable, statistics_of
from eval_lib import statistics as statistics_file
from eval_lib.neighbours import nearest
from io_lib import pictures
from io_lib.workdir import atomic
from run_parts import Parts, is_image, picture_scale, unlabelled
from run_sampling import Trained, samples_of, shards_of
from sde_lib import ScoreModel

SPLITS = ("train", "heldout")
PIXELS = "uint8, round(127.5 (x + 1)) of x in [-1, 1], clipped"
BATCH = 500  # images that go through the feature function at a time


class Judge(NamedTuple):
    """A feature function, what it says of the data, and the protocol of both."""

    features: Any
    protocol: dict[str, str]
    data: Statistics


def wanted(config: ConfigDict) -> bool:
    """Whether the config names features and metrics."""
    return "features" in config.eval and bool(config.eval.get("metrics"))


def judge_of(config: ConfigDict, parts: Parts, dataset: Dataset) -> Judge:
    """Features of config.eval.features, fitted to the training data where they ask for it, and the data's statistics:
    those of the file config.eval.reference, or of config.eval.reference_split, computed here.

    ConfigError where files or labels are not there, or the file is of another protocol.
    """
    try:
        features = build(config.eval.features, "config.eval.features")
        if hasattr(features, "fitted"):
            train = gather(dataset.train, np.arange(len(dataset.train)))
            features = features.fitted(as_seen(config, parts, train["x"]), train.get("label"))
        protocol = {
            **getattr(features, "protocol", {"features": json.loads(to_json(config))["eval"]["features"]}),
            "quantisation": PIXELS if is_image(config, parts) else "none",
            "shape": "x".join(map(str, config.shape)),
        }
        file = config.eval.get("reference", "")
        data = statistics_file.load(file) if file else data_statistics(config, parts, dataset, features, protocol)
        require_comparable(Statistics(0, np.zeros(0), np.zeros((0, 0)), protocol, {"what": "samples"}), data)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.eval: {error}") from error
    return Judge(features, protocol, data)


def data_statistics(config: ConfigDict, parts: Parts, dataset: Dataset, features, protocol: dict) -> Statistics:
    """Every example of config.eval.reference_split once."""
    split = config.eval.get("reference_split", "train")
    if split not in SPLITS:
        raise ValueError(f"reference_split is {split!r}: expected one of {', '.join(SPLITS)}")
    source = getattr(dataset, split)
    about = {"data": json.dumps(json.loads(to_json(config)).get("data")), "split": split, "N": str(len(source))}
    images = (as_seen(config, parts, x) for x in blocks(source))
    return statistics_of(images, features, protocol, about, config.eval.get("keep_features", True))


def write_statistics(config: ConfigDict, parts: Parts, dataset: Dataset, out: str | Path) -> Statistics:
    """The file that config.eval.reference names later; ConfigError as `judge_of`."""
    config = config.copy_and_resolve_references()
    config.eval.reference = ""
    if "features" not in config.eval:
        raise ConfigError("config.eval.features is missing: spec(InceptionFeatures), or any function of images")
    stats = judge_of(config, parts, dataset).data
    with atomic(out) as file:
        statistics_file.save(file, stats)
    print(f"{out}: {stats.count} examples, {len(stats.mean)} features\n{protocol_text(stats)}")
    return stats


def protocol_text(stats: Statistics) -> str:
    """One line each."""
    return "".join(f"    {name}: {value}\n" for name, value in {**stats.protocol, **stats.about}.items())


def as_seen(config: ConfigDict, parts: Parts, x: np.ndarray) -> np.ndarray:
    """Data as the samples are kept: images uint8 by way of model space, other data as they are."""
    return parts.transform.to_uint8(parts.transform.forward(x)) if is_image(config, parts) else np.asarray(x)


def blocks(source: Source) -> Iterator[np.ndarray]:
    for first in range(0, len(source), BATCH):
        yield gather(source, np.arange(first, min(first + BATCH, len(source))))["x"]


# Metrics


def metrics_of(trained: Trained, dataset: Dataset, count: int, seed: int, folder: Path) -> dict | None:
    """config.eval.metrics of `count` samples of each of the seeds `seed` … seed + config.eval.seeds − 1.

    figures      name → mean and sd over the seeds, and each
    protocol, reference     what the numbers rest on: compare no others
    seconds      of sampling, a sample, where any were drawn now; of several seeds the mean

    None where a signal stopped the sampling: what was drawn stays.
    """
    config, parts = trained.config, trained.parts
    judge = judge_of(config, parts, dataset)
    metrics = {name: build(m, f"config.eval.metrics.{name}") for name, m in config.eval.metrics.items()}
    found, seconds = [], []
    for one in reversed(range(seed, seed + config.eval.get("seeds", 1))):  # samples.npz is then of `seed`
        missing, start = max(0, count - shards_of(trained, one).count()), time.perf_counter()
        drawn = samples_of(trained, count, one)
        if drawn is None:
            return None
        if missing:
            seconds.append((time.perf_counter() - start) / missing)
        cut = (drawn[0][i : i + BATCH] for i in range(0, count, BATCH))
        about = {"step": str(trained.step), "seed": str(one), "N": str(count)}
        seen = statistics_of(cut, judge.features, judge.protocol, about, config.eval.get("keep_features", True))
        found.append(figures_of(metrics, seen, judge.data))
    if is_image(config, parts) and seen.features is not None:
        draw_neighbours(folder / "neighbours.png", config, parts, dataset, judge, drawn[0], seen)
    return {
        "figures": {name: spread([figures[name] for figures in reversed(found)]) for name in found[0]},
        "protocol": dict(judge.protocol),
        "reference": dict(judge.data.about),
        "samples": count,
        "seconds": float(np.mean(seconds)) if seconds else None,
    }


def figures_of(metrics: dict, samples: Statistics, data: Statistics) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            found |= metric(samples, data)
        except ValueError as error:
            raise ConfigError(f"config.eval.metrics.{name}: {error}") from error
    return found


def spread(each: list[float]) -> dict:
    """Mean and standard deviation over seeds; of one seed there is none."""
    sd = float(np.std(each, ddof=1)) if len(each) > 1 else None
    return {"mean": float(np.mean(each)), "sd": sd, "each": [float(value) for value in each]}


def text_of(found: dict) -> str:
    """A Markdown table, and under it what the numbers rest on."""
    rows = [f"| what | mean | sd over {len(next(iter(found['figures'].values()))['each'])} seeds |", "|---|--:|--:|"]
    for name, value in found["figures"].items():
        rows.append(f"| {name} | {value['mean']:.4g} | {'' if value['sd'] is None else format(value['sd'], '.2g')} |")
    protocol = [f"- {name}: {value}" for name, value in found["protocol"].items()]
    reference = ", ".join(f"{name} {value}" for name, value in found["reference"].items())
    seconds = "" if found["seconds"] is None else f", {found['seconds']:.3g} s of sampling each"
    return "\n".join([*rows, "", f"{found['samples']} samples{seconds}, against {reference}:", "", *protocol, ""])


def draw_neighbours(
    file: Path, config: ConfigDict, parts: Parts, dataset: Dataset, judge: Judge, x: np.ndarray, seen: Statistics
) -> None:
    """The first samples, a row each: itself, and the five training examples nearest to it in features."""
    if judge.data.features is None or judge.data.about.get("split") != "train":
        return
    if judge.data.count != len(dataset.train):
        return
    index, _ = nearest(seen.features[:12], judge.data.features, 5)
    near = as_seen(config, parts, gather(dataset.train, index.ravel())["x"]).reshape(*index.shape, *x.shape[1:])
    rows = np.concatenate([x[: len(index), None], near], axis=1)
    grid = pictures.image_grid(rows.reshape(-1, *x.shape[1:]), columns=6, scale=picture_scale(config))
    pictures.save_png(file, grid)


# The loss against t


def loss_curve(trained: Trained, dataset: Dataset, times: int = 16, examples: int = 1000) -> dict | None:
    """The config's loss at each of `times` equidistant t, of the first held-out examples: means and standard errors.

    None for a loss that does not take its law of times from its caller.
    """
    loss = trained.parts.loss
    if "sample_time" not in inspect.signature(loss).parameters:
        return None
    at = jax.jit(partial(_loss_at, loss))
    model = jax.device_put(trained.model, trained.layout.copied)
    sde, size = trained.parts.sde, trained.config.eval.batch_size
    grid = np.linspace(float(sde.t_min), float(sde.t_max), times).astype(np.float32)
    totals = np.zeros((3, times))
    for first, batch in enumerate(eval_batches(dataset.heldout, trained.parts.transform, size)):
        if first * size >= examples:
            break
        batch = trained.layout.put(unlabelled(batch))
        for k, t in enumerate(grid):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(trained.config.seed), first), k)
            totals[:, k] += jax.device_get(at(model, key, t, batch))
    total, squares, count = totals
    mean = total / count
    error = np.sqrt(np.maximum(squares / count - mean**2, 0) / count)
    return {"t": grid.tolist(), "loss": mean.tolist(), "error": error.tolist()}


def _loss_at(loss, model: ScoreModel, key, t, batch: dict):
    """Σ, Σ of squares and number of the losses of a batch, all at t."""
    law = lambda key, sde, n: jnp.full(n, t)  # noqa: E731
    value = loss(key, model.score, model.sde, batch["x"], sample_time=law)
    mask = batch["mask"]
    return jnp.stack([jnp.sum(value * mask), jnp.sum(value**2 * mask), jnp.sum(mask)])


def code_version() -> str:
    """The commit of this code, with -dirty where files differ from it; "unknown" outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
