"""Features of data and samples: their function and protocol, and a cache on disk, block by block.

    FOLDER/features/PROTOCOL/BLOCK.npz      features and logits of up to 500 images

A file is named by a digest of the block's pixels, its folder by a digest of the protocol. Files are written atomically.
So a killed evaluation computes no block twice when it resumes, and neither does another evaluation of the same images.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build, to_json
from data_lib import Dataset, Source, gather
from data_lib.identity import digest
from eval_lib import Features, Statistics, require_comparable, statistics_of
from eval_lib import statistics as statistics_file
from eval_lib.features import FeatureFunction
from io_lib.shards import BROKEN
from io_lib.workdir import atomic, write_atomic
from run_modes.experiment import Experiment, requires

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
GROUPS = 5  # at most, of samples that are compared with as many real examples each
BLOCK = 500  # images per call of the feature function, and per file


class FeatureMetrics(NamedTuple):
    """A feature function, its protocol, the metrics, and the data's statistics if config.eval.reference is a file."""

    features: FeatureFunction
    protocol: dict[str, str]
    metrics: dict[str, Callable]
    reference: Statistics | None


class RealSplits(NamedTuple):
    """As many real examples of the reference split as of the other one, at random: `rows` of each."""

    reference: Statistics
    other: Statistics
    split: str
    rows: int

    def groups(self, samples: Statistics) -> list[Statistics]:
        """The samples in groups of `rows`, of which there are at most GROUPS."""
        number = min(samples.count // self.rows, GROUPS)
        return [samples.rows(slice(i * self.rows, (i + 1) * self.rows)) for i in range(number)]


def wanted(config: ConfigDict) -> bool:
    """Whether the config names features and metrics."""
    return "features" in config.eval and bool(config.eval.get("metrics"))


def build_feature_metrics(experiment: Experiment, dataset: Dataset, folder: Path) -> FeatureMetrics:
    """The features, metrics and reference of config.eval: files are read, and features fitted to the training data.

    ConfigError for missing files or labels, an unknown name, or a reference of another protocol. No feature of data or
    samples is computed yet.
    """
    config = experiment.config
    metrics = {name: build(m, f"config.eval.metrics.{name}") for name, m in config.eval.get("metrics", {}).items()}
    try:
        features = ready(experiment, dataset)
        protocol = {
            **getattr(features, "protocol", {"features": json.loads(to_json(config))["eval"]["features"]}),
            "quantization": experiment.form.quantization,
            "shape": "x".join(map(str, config.shape)),
        }
        file, split = config.eval.get("reference", ""), config.eval.get("reference_split", "train")
        reference = statistics_file.load(file) if file else None
        if reference is not None:
            require_comparable(Statistics(0, np.zeros(0), np.zeros((0, 0)), protocol, {"what": "samples"}), reference)
            warn_of_other_reference(file, reference, dataset)
        elif split not in SPLITS:
            raise ValueError(f"reference_split is {split!r}: expected one of {', '.join(SPLITS)}")
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.eval: {error}") from error
    require_features(config, metrics, reference)
    if hasattr(features, "protocol") and not getattr(features, "cheap", False):
        features = CachedFeatures(features, protocol, folder / "features")
    return FeatureMetrics(features, protocol, metrics, reference)


def warn_of_other_reference(file: str, reference: Statistics, dataset: Dataset) -> None:
    """A warning if a reference of this library was computed on other data than the split of the same name."""
    there, split = reference.about.get("sha256", ""), reference.about.get("split", "")
    here = digest(getattr(dataset, split)) if split in SPLITS else ""
    if there and here and there != here:
        log.warning(
            "config.eval.reference=%s has statistics of %s examples that are not the %s examples of config.data",
            *(file, reference.about.get("N", reference.count), split),
        )


def require_features(config: ConfigDict, metrics: dict[str, Callable], reference: Statistics | None) -> None:
    """ConfigError for a metric that requires features if none will be stored."""
    for name, metric in metrics.items():
        try:
            if requires(metric) and not config.eval.get("keep_features", True):
                raise ValueError("this metric requires features, but config.eval.keep_features is False")
            if "data" in requires(metric) and reference is not None:
                reference.kept()
        except ValueError as error:
            raise ConfigError(f"config.eval.metrics.{name}: {error}") from error


def ready(experiment: Experiment, dataset: Dataset) -> FeatureFunction:
    """The feature function of config.eval.features, fitted to the training data and loaded if it has such methods."""
    features = build(experiment.config.eval.features, "config.eval.features")
    if hasattr(features, "fitted"):
        train = gather(dataset.train, np.arange(len(dataset.train)))
        features = features.fitted(experiment.form.of_data(train["x"]), train.get("label"))
    return features.loaded(experiment.devices.all) if hasattr(features, "loaded") else features


class CachedFeatures:
    """A feature function whose results are cached in files, so that it is called once for each block of images."""

    def __init__(self, features: FeatureFunction, protocol: Mapping[str, str], parent: Path):
        self.features, self.protocol = features, json.dumps(dict(protocol), sort_keys=True, indent=1)
        self.folder = parent / hashlib.sha256(self.protocol.encode()).hexdigest()[:8]

    def __call__(self, images: np.ndarray) -> Features:
        file = self.folder / f"{_digest(images)}.npz"
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return Features(arrays["features"], arrays["logits"] if "logits" in arrays.files else None)
        except BROKEN:
            pass  # damaged or missing
        found = self.features(images)
        found = found if isinstance(found, Features) else Features(found)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "protocol.json").is_file():
            write_atomic(self.folder / "protocol.json", self.protocol)
        with atomic(file) as opened:
            np.savez(opened, **{name: array for name, array in found._asdict().items() if array is not None})
        return found


def _digest(images: np.ndarray) -> str:
    images = np.ascontiguousarray(images)
    found = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    found.update(images.data.cast("B"))
    return found.hexdigest()[:32]


# Statistics


def data_statistics(experiment: Experiment, dataset: Dataset, feature_metrics: FeatureMetrics) -> Statistics:
    """Statistics of the reference file, or else of every example of config.eval.reference_split."""
    if feature_metrics.reference is not None:
        return feature_metrics.reference
    config = experiment.config
    split = config.eval.get("reference_split", "train")
    source = getattr(dataset, split)
    about = {"data": data_name(config, source), "split": split, "N": str(len(source)), "sha256": digest(source)}
    return extract_features(feature_metrics, map(experiment.form.of_data, blocks(source)), about, config)


def data_name(config: ConfigDict, source: Source) -> str:
    """The source's own name, if it has one, else config.data: data passed as arrays are not those of the config."""
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else json.dumps(json.loads(to_json(config)).get("data"))


def real_splits(
    experiment: Experiment, dataset: Dataset, feature_metrics: FeatureMetrics, data: Statistics, count: int
) -> RealSplits | None:
    """Real examples for the floors of metrics that have one, at most `count`; the same for every seed of sampling.

    None if no metric has a floor, if the reference is a file, or if a split has fewer than two examples.
    """
    floors = any(has_floor(metric) for metric in feature_metrics.metrics.values())
    if not floors or feature_metrics.reference is not None or data.features is None:
        return None
    split = "test" if data.about["split"] == "train" else "train"
    source, draw = getattr(dataset, split), np.random.default_rng(0)
    rows = min(count, data.count, len(source))
    if rows < 2:
        return None
    index, reference = (np.sort(draw.choice(n, rows, replace=False)) for n in (len(source), data.count))
    examples = (experiment.form.of_data(gather(source, index[i : i + BLOCK])["x"]) for i in range(0, rows, BLOCK))
    about = {"data": data_name(experiment.config, source), "split": split, "N": str(rows)}
    other = extract_features(feature_metrics, examples, about, experiment.config)
    return RealSplits(data.rows(reference), other, split, rows)


def has_floor(metric: Callable) -> bool:
    """Whether a metric, or the function of a functools.partial, is marked with `eval_lib.with_floor`."""
    return getattr(getattr(metric, "func", metric), "floor", False)


def extract_features(
    feature_metrics: FeatureMetrics, images: Iterator[np.ndarray], about: dict[str, str], config: ConfigDict
) -> Statistics:
    """Statistics of blocks of images, with their features if config.eval.keep_features.

    Metrics with a floor read no covariance: if all metrics have one, only variances are computed.
    """
    metrics = feature_metrics.metrics.values()
    full = not metrics or not all(map(has_floor, metrics))
    keep = config.eval.get("keep_features", True)
    try:
        return statistics_of(images, feature_metrics.features, feature_metrics.protocol, about, keep, full)
    except ValueError as error:
        raise ConfigError(f"config.eval.features: {error}") from error


def write_statistics(experiment: Experiment, dataset: Dataset, out: str | Path) -> Statistics:
    """Writes the statistics of the data to `out`, a file for config.eval.reference. Resumes after a kill.

    ConfigError as `build_feature_metrics`, without config.eval.features, and if the folder of `out` does not exist.
    """
    config = experiment.config.copy_and_resolve_references()
    config.eval.reference, config.eval.metrics = "", ConfigDict()
    if "features" not in config.eval:
        raise ConfigError("config.eval.features is missing: set spec(InceptionFeatures), or any function of images")
    underway = Path(out).with_name(f".{Path(out).name}.underway")
    if not underway.parent.is_dir():
        raise ConfigError(f"--out={out}: there is no folder {underway.parent}")
    experiment = experiment._replace(config=config)
    stats = data_statistics(experiment, dataset, build_feature_metrics(experiment, dataset, underway))
    with atomic(out) as file:
        statistics_file.save(file, stats)
    shutil.rmtree(underway, ignore_errors=True)
    print(f"{out}: {stats.count} examples, {len(stats.mean)} features\n{protocol_text(stats)}")
    return stats


def protocol_text(stats: Statistics) -> str:
    """Protocol and source, one entry per line."""
    return "".join(f"    {name}: {value}\n" for name, value in {**stats.protocol, **stats.about}.items())


def blocks(source: Source) -> Iterator[np.ndarray]:
    for first in range(0, len(source), BLOCK):
        yield gather(source, np.arange(first, min(first + BLOCK, len(source))))["x"]
