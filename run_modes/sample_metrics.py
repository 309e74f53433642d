"""Samples compared with data, for each seed: metrics, the report, and pictures."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from config_lib.spec import ConfigError, build
from data_lib import Dataset, gather
from eval_lib import Statistics, ks_statistics
from eval_lib.expected import flat_numbers
from eval_lib.metrics import figure_name
from eval_lib.neighbors import nearest
from io_lib import pictures
from run_modes import features
from run_modes.experiment import Experiment, requires
from run_modes.features import FeatureMetrics, RealSplits, build_feature_metrics, has_floor
from run_modes.guidance import text_of_guidance
from run_modes.sample import samples_of, shards_of
from run_modes.sample_conditions import conditions_of_samples
from run_modes.trained import Trained

Report = Callable[[np.ndarray], dict]

DRAWN_POINTS = 5000
DRAWN_COORDINATES = 5
COMPARED = 100  # examples next to as many samples


def build_evaluators(
    experiment: Experiment, dataset: Dataset, folder: Path
) -> tuple[FeatureMetrics | None, Report | None]:
    """The evaluators of samples that config.eval names: features with metrics, and the report. Neither is called yet.

    ConfigError for anything missing, so before a loss is computed or a sample drawn.
    """
    config = experiment.config
    feature_metrics = build_feature_metrics(experiment, dataset, folder) if features.wanted(config) else None
    return feature_metrics, report_of(experiment, dataset) if "report" in config.eval else None


def report_of(experiment: Experiment, dataset: Dataset) -> Report:
    """config.eval.report as a function of samples, with all of the data bound; everything in model space."""
    report, forward = build(experiment.config.eval.report, "config.eval.report"), experiment.transform.forward
    missing = [name for name in requires(report) if name not in gather(dataset.train, [0])]
    if missing:
        raise ConfigError(f"config.eval.report: the data have no {', '.join(missing)}, which the report requires")

    def of_samples(x: np.ndarray) -> dict:
        train, test = (gather(source, np.arange(len(source))) for source in dataset)
        samples = experiment.form.from_samples(x)
        return report(samples, forward(train["x"]), forward(test["x"]), train.get("label"), test.get("label"))

    return of_samples


def evaluate_samples(
    trained: Trained,
    dataset: Dataset,
    evaluators: tuple[FeatureMetrics | None, Report | None],
    count: int,
    seed: int,
    folder: Path,
) -> dict | None:
    """Evaluates `count` samples of each of the seeds `seed` … seed + config.eval.seeds − 1.

    samples      number of samples of each seed
    nfe          score evaluations per sample, mean; a guided evaluation calls the network twice
    guidance     config.sampling.guidance, unless it is 1; with a classifier also the digest of its parameters and its
                 scale, and the interval of guidance if there is one (`run_modes.guidance`)
    seconds      of sampling per sample, mean over the cached samples
    metrics      figures: key → mean and sd over the seeds, and each; names of those whose name is not the key;
                 floors: the same figures of real examples; protocol and reference of the features
    over_seeds   the same for the report's numbers; the report itself is that of `seed`

    Draws samples.png and neighbors.png of images, marginals.png of other data, for `seed`. None if a signal stopped the
    sampling; samples drawn so far stay.
    """
    feature_metrics, report = evaluators
    data = None if feature_metrics is None else features.data_statistics(trained.experiment, dataset, feature_metrics)
    splits = None
    if feature_metrics is not None and data is not None:
        splits = features.real_splits(trained.experiment, dataset, feature_metrics, data, count)
    conditions = conditions_of_samples(trained, dataset)
    x, samples, figures, reports, costs = np.zeros(0), None, [], [], []
    for one in reversed(range(seed, seed + trained.config.eval.get("seeds", 1))):  # `seed` last: samples.npz is its
        drawn = samples_of(trained, count, one, conditions)
        if drawn is None:
            return None
        x, nfe = drawn
        costs.append((float(np.mean(nfe)), shards_of(trained, one, conditions).seconds()))
        if feature_metrics is not None and data is not None:
            samples = sample_statistics(trained, feature_metrics, x, one)
            figures.append(figures_of(feature_metrics.metrics, samples, data, splits))
        reports.append(report(x) if report else {})
    draw_pictures(folder, trained, dataset, x, samples, data)
    nfe, seconds = np.mean(costs, axis=0)
    found = {**reports[-1], "samples": count, "nfe": float(nfe), "seconds": float(seconds)}
    if conditions.law:
        found["classes"] = conditions.law
    found |= trained.guidance_made()
    if feature_metrics is not None and data is not None:
        about = {"protocol": dict(feature_metrics.protocol), "reference": dict(data.about)}
        names = {key: name for key in figures[0] if (name := figure_name(key, feature_metrics.protocol)) != key}
        found["metrics"] = {"figures": over(figures), "names": names, **about}
        if splits is not None:
            found["metrics"]["floors"] = floors_of(feature_metrics.metrics, splits)
    return found | ({"over_seeds": over([flat_numbers(one) for one in reports])} if report else {})


def sample_statistics(trained: Trained, feature_metrics: FeatureMetrics, x: np.ndarray, seed: int) -> Statistics:
    """Statistics of samples x [N, *shape], computed block by block."""
    about = {"step": str(trained.step), "seed": str(seed), "N": str(len(x))}
    size = features.BLOCK
    cut = (np.asarray(x[i : i + size]) for i in range(0, len(x), size))
    return features.extract_features(feature_metrics, cut, about, trained.config)


def figures_of(
    metrics: dict[str, Callable], samples: Statistics, data: Statistics, splits: RealSplits | None = None
) -> dict[str, float]:
    """The figures of all metrics, by key. ConfigError naming a metric that fails.

    With `splits`, those of metrics with a floor are means over groups of as many samples as there are real examples.
    """
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            if splits is not None and has_floor(metric):
                groups = [metric(group, splits.reference) for group in splits.groups(samples)]
                found |= {key: float(np.mean([figures[key] for figures in groups])) for key in groups[0]}
            else:
                found |= metric(samples, data)
        except ValueError as error:
            raise ConfigError(f"config.eval.metrics.{name}: {error}") from error
    return found


def floors_of(metrics: dict[str, Callable], splits: RealSplits) -> dict:
    """The figures of real examples instead of samples: what samples of the true distribution would reach."""
    metrics = {name: metric for name, metric in metrics.items() if has_floor(metric)}
    figures = figures_of(metrics, splits.other, splits.reference)
    return {"figures": figures, "split": splits.split, "rows": splits.rows}


def over(seeds: list[dict[str, float]]) -> dict[str, dict]:
    """Mean, sd (None for one seed) and values of each figure; `seeds` has the figures of the last seed first."""
    each = {name: [float(figures[name]) for figures in reversed(seeds)] for name in seeds[0]}
    sd = lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else None  # noqa: E731
    return {name: {"mean": float(np.mean(v)), "sd": sd(v), "each": v} for name, v in each.items()}


def text_of(found: dict) -> str:
    """Markdown tables of the figures, with their floors, and of each coordinate; then cost, reference and protocol."""
    rows, metrics = [], found.get("metrics", {"figures": {}, "protocol": {}})
    figures = {figure_name(key, metrics["protocol"]): value for key, value in metrics["figures"].items()}
    several = {key: value for key, value in found.get("over_seeds", {}).items() if value["sd"] is not None}
    floors, shown = metrics.get("floors", {"figures": {}}), {**figures, **several}
    for name, value in shown.items():
        cells = [f"{value['mean']:.4g}", "" if value["sd"] is None else format(value["sd"], ".2g")]
        if floors["figures"]:
            cells.append(format(floors["figures"][name], ".4g") if name in floors["figures"] else "")
        if not OF_COORDINATE.fullmatch(name):
            rows.append(f"| {' | '.join([name, *cells])} |")
    if rows:
        head = ["figure", "mean", f"sd over {len(next(iter(shown.values()))['each'])} seeds"]
        if floors["figures"]:
            head.append(f"floor: {floors['rows']} {floors['split']} examples")
        rows = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1), *rows, ""]
    rows += coordinate_table(figures, floors["figures"])
    if floors["figures"]:
        rows += [f"Figures with a floor compare groups of {floors['rows']} samples with as many real examples.", ""]
    cost = f"NFE {found['nfe']:.4g} and {found['seconds']:.3g} s per sample"
    rows.append(f"{found['samples']} samples, {cost}{text_of_guidance(found)}")
    if figures:
        reference = ", ".join(f"{name} {value}" for name, value in metrics["reference"].items())
        protocol = (f"- {name}: {value}" for name, value in metrics["protocol"].items())
        rows += [f"compared with {reference}", "", *protocol]
    return "\n".join([*rows, ""])


OF_COORDINATE = re.compile(r"(.+) \[(\d+)\]")  # the key of a figure of one coordinate


def coordinate_table(figures: dict[str, dict], floors: dict[str, float]) -> list[str]:
    """Figures "KS [0]", "KS [1]" … as the lines of a table, one per coordinate, each with its floor in parentheses."""
    found: dict[int, dict[str, str]] = {}
    for key, value in figures.items():
        if match := OF_COORDINATE.fullmatch(key):
            floor = f" ({floors[key]:.2g})" if key in floors else ""
            found.setdefault(int(match[2]), {})[match[1]] = f"{value['mean']:.2g}{floor}"
    if not found:
        return []
    names = list(dict.fromkeys(name for cells in found.values() for name in cells))
    head = f"| coordinate{' (floors in parentheses)' if floors else ''} | {' | '.join(names)} |"
    rows = [f"| {i} | {' | '.join(found[i].get(name, '') for name in names)} |" for i in sorted(found)]
    return [head, "|---|" + "--:|" * len(names), *rows, ""]


# Pictures


def draw_pictures(
    folder: Path,
    trained: Trained,
    dataset: Dataset,
    x: np.ndarray,
    samples: Statistics | None,
    data: Statistics | None,
) -> None:
    """The first samples next to the first training examples, as their form does; of images the nearest in features.

    For arrays: the marginals and pairs of the coordinates whose marginals differ most.
    """
    form: Any = trained.experiment.form
    if not hasattr(form, "compare"):
        draw_marginals(folder / "marginals.png", dataset, x)
        return
    form.compare(folder, x, form.of_data(gather(dataset.train, np.arange(min(COMPARED, len(dataset.train))))["x"]))
    if hasattr(form, "grid") and samples is not None and data is not None:
        draw_neighbors(folder / "neighbors.png", trained, dataset, np.asarray(x[:12]), samples, data)


def draw_marginals(file: Path, dataset: Dataset, x: np.ndarray) -> None:
    """Samples x [N, *shape] next to random training examples, flattened: at most DRAWN_COORDINATES coordinates."""
    index = np.random.default_rng(0).permutation(len(dataset.train))[:DRAWN_POINTS]
    real = gather(dataset.train, index)["x"]
    samples, real = (np.asarray(a[:DRAWN_POINTS], np.float64).reshape(len(a[:DRAWN_POINTS]), -1) for a in (x, real))
    if min(len(samples), len(real)) < 2:
        return
    shown = np.arange(samples.shape[1])
    if len(shown) > DRAWN_COORDINATES:
        shown = np.sort(np.argsort(-ks_statistics(samples, real), kind="stable")[:DRAWN_COORDINATES])
    pictures.plot_marginals_and_pairs(file, samples[:, shown], real[:, shown], [f"x[{i}]" for i in shown])


def draw_neighbors(
    file: Path, trained: Trained, dataset: Dataset, x: np.ndarray, samples: Statistics, data: Statistics
) -> None:
    """A row for each sample: the sample, and the five training images nearest to it in features.

    Draws nothing unless the features of all training images are stored.
    """
    if samples.features is None or data.features is None or data.about.get("split") != "train":
        return
    if not 5 <= data.count == len(dataset.train):
        return
    index, _ = nearest(samples.features[: len(x)], data.features, 5)
    form: Any = trained.experiment.form
    near = form.of_data(gather(dataset.train, index.ravel())["x"]).reshape(*index.shape, *x.shape[1:])
    rows = np.concatenate([x[:, None], near], axis=1)
    pictures.save_png(file, form.grid(rows.reshape(-1, *x.shape[1:]), columns=6))
