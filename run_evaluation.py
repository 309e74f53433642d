"""Samples beside data, seed by seed: what metrics and report say of them, pictures, and the loss against t."""

import inspect
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import run_features
from configs.spec import ConfigError, build
from data_lib import Dataset, eval_batches, gather
from eval_lib import Statistics
from eval_lib.expected import flat_numbers
from eval_lib.neighbours import nearest
from io_lib import pictures
from run_classes import for_network
from run_features import Judge, as_seen, judge_of
from run_parts import Layout, Parts, is_image, picture_scale, requires
from run_sampling import Trained, samples_of, shards_of
from sde_lib import ScoreModel

Report = Callable[[np.ndarray], dict]


def judges_of(
    config: ConfigDict, parts: Parts, dataset: Dataset, layout: Layout, folder: Path
) -> tuple[Judge | None, Report | None]:
    """Those of config.eval that samples go to: features with metrics, and the report. Neither is used yet.

    ConfigError for what is missing: before a loss is computed, or a sample drawn.
    """
    judge = judge_of(config, parts, dataset, layout, folder) if run_features.wanted(config) else None
    return judge, report_of(config, parts, dataset) if "report" in config.eval else None


def report_of(config: ConfigDict, parts: Parts, dataset: Dataset) -> Report:
    """config.eval.report as a function of samples, beside all of the data; everything in model space."""
    report, forward = build(config.eval.report, "config.eval.report"), parts.transform.forward
    missing = [name for name in requires(report) if name not in gather(dataset.train, [0])]
    if missing:
        raise ConfigError(f"config.eval.report: the data have no {', '.join(missing)}, which it needs")

    def of_samples(x: np.ndarray) -> dict:
        train, heldout = (gather(source, np.arange(len(source))) for source in dataset)
        samples = parts.transform.from_uint8(x) if is_image(config, parts) else forward(x)
        return report(samples, forward(train["x"]), forward(heldout["x"]), train.get("label"), heldout.get("label"))

    return of_samples


def judged(
    trained: Trained, dataset: Dataset, judges: tuple[Judge | None, Report | None], count: int, seed: int, folder: Path
) -> dict | None:
    """What the judges say of `count` samples of each of the seeds `seed` … seed + config.eval.seeds − 1.

    samples      how many of each seed
    nfe          evaluations of the score for one sample, mean; a guided one is two calls of the network
    guidance     config.sampling.guidance, where there is some
    seconds      of sampling for one sample, mean over those that are kept
    metrics      figures: name → mean and sd over the seeds, and each; protocol and reference: compare no others
    over_seeds   the same of the report's numbers; those of `seed` stand in the report itself

    Draws samples.png and neighbours.png, of `seed`. None where a signal stopped the sampling: what was drawn stays.
    """
    judge, report = judges
    data = run_features.data_statistics(trained.config, trained.parts, dataset, judge) if judge else None
    figures, reports, costs = [], [], []
    for one in reversed(range(seed, seed + trained.config.eval.get("seeds", 1))):  # samples.npz is then of `seed`
        drawn = samples_of(trained, count, one)
        if drawn is None:
            return None
        costs.append((float(np.mean(drawn[1])), shards_of(trained, one).seconds()))
        if judge:
            seen = see(trained, judge, drawn[0], one)
            figures.append(figures_of(judge.metrics, seen, data))
        reports.append(report(drawn[0]) if report else {})
    draw_pictures(folder, trained, dataset, drawn[0], (judge, seen, data) if judge else None)
    nfe, seconds = np.mean(costs, axis=0)
    found = {**reports[-1], "samples": count, "nfe": float(nfe), "seconds": float(seconds)}
    if trained.model.guidance is not None:
        found["guidance"] = trained.model.guidance
    if judge:
        found["metrics"] = {"figures": over(figures), "protocol": dict(judge.protocol), "reference": dict(data.about)}
    return found | ({"over_seeds": over([flat_numbers(one) for one in reports])} if report else {})


def see(trained: Trained, judge: Judge, x: np.ndarray, seed: int) -> Statistics:
    """Samples through the feature function, block by block."""
    about = {"step": str(trained.step), "seed": str(seed), "N": str(len(x))}
    size = run_features.BLOCK
    cut = (np.asarray(x[i : i + size]) for i in range(0, len(x), size))
    return run_features.seen_through(judge, cut, about, trained.config)


def figures_of(metrics: dict, samples: Statistics, data: Statistics) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            found |= metric(samples, data)
        except ValueError as error:
            raise ConfigError(f"config.eval.metrics.{name}: {error}") from error
    return found


def over(seeds: list[dict[str, float]]) -> dict[str, dict]:
    """Of each figure mean and standard deviation over the seeds, which come last first; of one seed there is none."""
    each = {name: [float(figures[name]) for figures in reversed(seeds)] for name in seeds[0]}
    sd = lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else None  # noqa: E731
    return {name: {"mean": float(np.mean(v)), "sd": sd(v), "each": v} for name, v in each.items()}


def text_of(found: dict) -> str:
    """A Markdown table, and under it what the numbers rest on."""
    rows, metrics = [], found.get("metrics", {"figures": {}})
    figures = metrics["figures"]
    several = {name: value for name, value in found.get("over_seeds", {}).items() if value["sd"] is not None}
    for name, value in {**figures, **several}.items():
        rows.append(f"| {name} | {value['mean']:.4g} | {'' if value['sd'] is None else format(value['sd'], '.2g')} |")
    if rows:
        seeds = len(next(iter({**figures, **several}.values()))["each"])
        rows = [f"| what | mean | sd over {seeds} seeds |", "|---|--:|--:|", *rows, ""]
    guided = f", guidance {found['guidance']:g}" if "guidance" in found else ""
    rows.append(f"{found['samples']} samples, {found['nfe']:.4g} evaluations and {found['seconds']:.3g} s each{guided}")
    if figures:
        reference = ", ".join(f"{name} {value}" for name, value in metrics["reference"].items())
        rows += [f"against {reference}", "", *(f"- {name}: {value}" for name, value in metrics["protocol"].items())]
    return "\n".join([*rows, ""])


# Pictures


def draw_pictures(
    folder: Path, trained: Trained, dataset: Dataset, x: np.ndarray, seen: tuple[Judge, Statistics, Statistics] | None
) -> None:
    """Of images: the first samples beside the first training examples, and the nearest of these in features."""
    config, parts = trained.config, trained.parts
    if not is_image(config, parts):
        return
    real = as_seen(config, parts, gather(dataset.train, np.arange(min(100, len(dataset.train))))["x"])
    grids = [pictures.image_grid(images) for images in (np.asarray(x[:100]), real)]
    pictures.save_grids_side_by_side(folder / "samples.png", *grids, titles=("samples", "real"))
    if seen is not None:
        draw_neighbours(folder / "neighbours.png", trained, dataset, np.asarray(x[:12]), seen)


def draw_neighbours(
    file: Path, trained: Trained, dataset: Dataset, x: np.ndarray, seen: tuple[Judge, Statistics, Statistics]
) -> None:
    """A row for each sample: itself, and the five training examples nearest to it in features.

    Nothing where the features of all training examples are not at hand.
    """
    config, parts, (_, samples, data) = trained.config, trained.parts, seen
    at_hand = samples.features is not None and data.features is not None and data.about.get("split") == "train"
    if not at_hand or not 5 <= data.count == len(dataset.train):
        return
    index, _ = nearest(samples.features[: len(x)], data.features, 5)
    near = as_seen(config, parts, gather(dataset.train, index.ravel())["x"]).reshape(*index.shape, *x.shape[1:])
    rows = np.concatenate([x[:, None], near], axis=1)
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
        batch = trained.layout.put(for_network(trained.config, batch))
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
    score_fn = partial(model.score, cond=batch.get("label"))
    value = loss(key, score_fn, model.sde, batch["x"], sample_time=law)
    mask = batch["mask"]
    return jnp.stack([jnp.sum(value * mask), jnp.sum(value**2 * mask), jnp.sum(mask)])


def code_version() -> str:
    """The commit of this code, with -dirty where files differ from it; "unknown" outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
