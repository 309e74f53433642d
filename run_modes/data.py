"""The data of a config, and checks that data, config and devices fit together."""

import logging

from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build
from data_lib import Dataset, gather, shared_examples
from run_modes.devices import Devices
from run_modes.labels import check_labels

log = logging.getLogger(__name__)


def load_data(config: ConfigDict, devices: Devices, dataset: Dataset | None = None) -> Dataset:
    """The data of config.data, or `dataset`, checked. ConfigError if they are missing or do not fit."""
    return check_data(config, build_data(config) if dataset is None else log_shared(dataset), devices)


def build_data(config: ConfigDict) -> Dataset:
    """The data of config.data; a warning if test examples are also training examples."""
    try:
        return log_shared(build(config.data, "config.data"))
    except FileNotFoundError as error:
        raise ConfigError(f"config.data: {error}") from error


def log_shared(dataset: Dataset) -> Dataset:
    """The data again; a warning if test examples, on which models are evaluated, are also training examples."""
    shared = shared_examples(dataset)
    if shared is None:
        log.warning("not checked whether test examples are also training examples: the data are not in memory")
    elif shared:
        log.warning("%d of %d test examples are also training examples", shared, len(dataset.test))
    return dataset


def check_data(config: ConfigDict, dataset: Dataset, devices: Devices) -> Dataset:
    """The data again; ConfigError if data, config and devices do not fit together."""
    shape = tuple(gather(dataset.train, [0])["x"].shape[1:])
    if shape != tuple(config.shape):
        raise ConfigError(f"config.shape is {tuple(config.shape)}, but the data are {shape}")
    for place, size in (("training", config.training.batch_size), ("eval", config.eval.batch_size)):
        if size < 1 or size % devices.count:
            raise ConfigError(f"config.{place}.batch_size={size} cannot be split over {devices.count} devices")
    check_labels(config, dataset)
    check_numbers(config)
    size, parts = config.training.batch_size, config.training.get("accumulate", 1)
    if parts < 1 or size % (parts * devices.count):
        raise ConfigError(
            f"config.training.accumulate={parts}: a batch of {size} on {devices.count} devices cannot be processed in "
            f"that many equal parts"
        )
    return dataset


def check_numbers(config: ConfigDict) -> None:
    """ConfigError for a number of config.training or config.eval that is out of range."""
    training = config.training
    least = {name: 0 for name in ("log_every", "eval_every", "sample_every", "checkpoint_every", "steps_per_call")}
    for name, low in {"num_steps": 1, "snapshot_size": 1, **least}.items():
        if not low <= training[name] < 2**31:
            raise ConfigError(f"config.training.{name}={training[name]}: expected {low} or more, below 2^31")
    counts = {"seeds": config.eval.get("seeds", 1), "reproduce.seeds": config.eval.get("reproduce", {}).get("seeds", 1)}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"config.eval.{name}={value}: expected 1 or more")
    if config.eval.get("bpd", {}).get("count", 0) < 0:
        raise ConfigError(f"config.eval.bpd.count={config.eval.bpd.count}: expected 0, for all, or more")
    if not 0 <= training.ema < 1:
        raise ConfigError(f"config.training.ema={training.ema}: expected 0 or more, below 1")
