"""Samples beside data, seed by seed: what metrics and report say of them, pictures, and the loss against t."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from config_lib.spec import ConfigError, build
from data_lib import Dataset, gather
from eval_lib import Statistics
from eval_lib.expected import flat_numbers
from eval_lib.neighbors import nearest
from io_lib import pictures
from run_modes import features
from run_modes.experiment import Experiment, requires
from run_modes.features import FeatureMetrics, as_saved, judge_of
from run_modes.sample import samples_of, shards_of
from run_modes.trained import Trained

Report = Callable[[np.ndarray], dict]


def judges_of(experiment: Experiment, dataset: Dataset, folder: Path) -> tuple[FeatureMetrics | None, Report | None]:
    """Those of config.eval that samples go to: features with metrics, and the report. Neither is used yet.

    ConfigError for what is missing: before a loss is computed, or a sample drawn.
    """
    config = experiment.config
    judge = judge_of(experiment, dataset, folder) if features.wanted(config) else None
    return judge, report_of(experiment, dataset) if "report" in config.eval else None


def report_of(experiment: Experiment, dataset: Dataset) -> Report:
    """config.eval.report as a function of samples, beside all of the data; everything in model space."""
    report, transform = build(experiment.config.eval.report, "config.eval.report"), experiment.transform
    forward = transform.forward
    missing = [name for name in requires(report) if name not in gather(dataset.train, [0])]
    if missing:
        raise ConfigError(f"config.eval.report: the data have no {', '.join(missing)}, which it needs")

    def of_samples(x: np.ndarray) -> dict:
        train, test = (gather(source, np.arange(len(source))) for source in dataset)
        samples = transform.from_uint8(x) if experiment.is_image() else forward(x)
        return report(samples, forward(train["x"]), forward(test["x"]), train.get("label"), test.get("label"))

    return of_samples


def evaluate_samples(
    trained: Trained,
    dataset: Dataset,
    judges: tuple[FeatureMetrics | None, Report | None],
    count: int,
    seed: int,
    folder: Path,
) -> dict | None:
    """What the judges say of `count` samples of each of the seeds `seed` … seed + config.eval.seeds − 1.

    samples      how many of each seed
    nfe          evaluations of the score for one sample, mean; a guided one is two calls of the network
    guidance     config.sampling.guidance, where there is some
    seconds      of sampling for one sample, mean over those that are kept
    metrics      figures: name → mean and sd over the seeds, and each; protocol and reference: compare no others
    over_seeds   the same of the report's numbers; those of `seed` stand in the report itself

    Draws samples.png and neighbors.png, of `seed`. None where a signal stopped the sampling: what was drawn stays.
    """
    judge, report = judges
    data = features.data_statistics(trained.experiment, dataset, judge) if judge else None
    figures, reports, costs = [], [], []
    for one in reversed(range(seed, seed + trained.config.eval.get("seeds", 1))):  # samples.npz is then of `seed`
        drawn = samples_of(trained, count, one)
        if drawn is None:
            return None
        costs.append((float(np.mean(drawn[1])), shards_of(trained, one).seconds()))
        if judge:
            seen = features_of(trained, judge, drawn[0], one)
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


def features_of(trained: Trained, judge: FeatureMetrics, x: np.ndarray, seed: int) -> Statistics:
    """Samples through the feature function, block by block."""
    about = {"step": str(trained.step), "seed": str(seed), "N": str(len(x))}
    size = features.BLOCK
    cut = (np.asarray(x[i : i + size]) for i in range(0, len(x), size))
    return features.extract_features(judge, cut, about, trained.config)


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
    folder: Path,
    trained: Trained,
    dataset: Dataset,
    x: np.ndarray,
    seen: tuple[FeatureMetrics, Statistics, Statistics] | None,
) -> None:
    """Of images: the first samples beside the first training examples, and the nearest of these in features."""
    if not trained.experiment.is_image():
        return
    real = as_saved(trained.experiment, gather(dataset.train, np.arange(min(100, len(dataset.train))))["x"])
    grids = [pictures.image_grid(images) for images in (np.asarray(x[:100]), real)]
    pictures.save_grids_side_by_side(folder / "samples.png", *grids, titles=("samples", "real"))
    if seen is not None:
        draw_neighbors(folder / "neighbors.png", trained, dataset, np.asarray(x[:12]), seen)


def draw_neighbors(
    file: Path, trained: Trained, dataset: Dataset, x: np.ndarray, seen: tuple[FeatureMetrics, Statistics, Statistics]
) -> None:
    """A row for each sample: itself, and the five training examples nearest to it in features.

    Nothing where the features of all training examples are not at hand.
    """
    _, samples, data = seen
    at_hand = samples.features is not None and data.features is not None and data.about.get("split") == "train"
    if not at_hand or not 5 <= data.count == len(dataset.train):
        return
    index, _ = nearest(samples.features[: len(x)], data.features, 5)
    near = as_saved(trained.experiment, gather(dataset.train, index.ravel())["x"]).reshape(*index.shape, *x.shape[1:])
    rows = np.concatenate([x[:, None], near], axis=1)
    grid = pictures.image_grid(rows.reshape(-1, *x.shape[1:]), columns=6, scale=trained.experiment.picture_scale())
    pictures.save_png(file, grid)
