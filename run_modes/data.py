"""The data of a config, and checks that data, config and devices fit together."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build
from data_lib import (
    Bits,
    Dataset,
    Identity,
    Scale,
    Waveform,
    gather,
    remarks,
    scale_remark,
    shared_examples,
)
from data_lib.identity import differences, identity
from data_lib.transform import MANY
from run_modes.changes import saved_data
from run_modes.devices import Devices
from run_modes.labels import check_labels
from sde_lib.sde import has_kernel

log = logging.getLogger(__name__)


def load_data(config: ConfigDict, devices: Devices, dataset: Dataset | None = None, training: bool = False) -> Dataset:
    """The data of config.data, or `dataset`, checked. ConfigError if they are missing or do not fit.

    `training` also checks what only training requires: that its batches can be split over the devices. And it warns if
    the data in model space are unlike what the config assumes (`warn_of_scales`).
    """
    if dataset is None:
        return check_data(config, build_data(config), devices, training)
    if not (isinstance(dataset, tuple) and len(dataset) == 2 and all(hasattr(s, "__getitem__") for s in dataset)):
        hint = "data_lib.from_arrays(x) makes one of an array"
        if isinstance(dataset, str | Path):
            hint = "the order is train(config, directory, dataset)"
        raise ConfigError(
            f"dataset: expected a Dataset of training and test examples, got {type(dataset).__name__}; {hint}"
        )
    return check_data(config, log_shared(Dataset(*dataset)), devices, training)


def warn_of_other_data(directory: str | Path, dataset: Dataset) -> None:
    """A warning if these are not the data that the run of the directory was trained on."""
    then = saved_data(directory)
    if then is not None and (found := differences(then, identity(dataset))):
        log.warning("%s was trained on other data than these: %s", directory, "; ".join(found))


def build_data(config: ConfigDict) -> Dataset:
    """The data of config.data; a warning if test examples are also training examples."""
    try:
        return log_shared(build(config.data, "config.data"))
    except FileNotFoundError as error:
        raise ConfigError(f"config.data: {error}") from error


def build_transform(config: ConfigDict) -> Any:
    """config.transform; for recordings and texts of configs of version 0.1 the transform that brings their form."""
    transform, source = (
        build(config.transform, "config.transform"),
        str(config.get("data", {}).get("call", "")).split(":")[-1],
    )
    if source == "from_audio" and transform == Identity():
        return Waveform(rate=config.data.get("rate", Waveform.rate))
    if source == "from_text" and transform == Scale(0.0, 1.0):
        return Bits(alphabet=config.data.get("alphabet", ""))
    return transform


def log_shared(dataset: Dataset) -> Dataset:
    """The data again; a warning if test examples, on which models are evaluated, are also training examples."""
    shared = shared_examples(dataset)
    if shared is None:
        log.warning("not checked whether test examples are also training examples: the data are not in memory")
    elif shared:
        log.warning("%d of %d test examples are also training examples", shared, len(dataset.test))
    return dataset


def check_data(config: ConfigDict, dataset: Dataset, devices: Devices, training: bool = True) -> Dataset:
    """The data again; ConfigError if data, config and devices do not fit together, for training or else other uses."""
    for line in remarks(dataset):  # first: they may explain the error below
        log.warning("%s", line)
    shape, expected = tuple(gather(dataset.train, [0])["x"].shape[1:]), data_shape(config)
    if shape != expected:
        made = "" if expected == tuple(config.shape) else f", which the transform makes of events {expected}"
        raise ConfigError(f"config.shape is {tuple(config.shape)}{made}, but the data are {shape}")
    check_labels(config, dataset)
    check_numbers(config)
    if training:
        check_batches(config, devices)
        warn_of_scales(config, dataset)
    return dataset


def data_shape(config: ConfigDict) -> tuple[int, ...]:
    """The shape of an event in the units of the data: config.shape, unless the transform has a `data_shape` of it."""
    of_model = getattr(build_transform(config), "data_shape", None)
    try:
        return tuple(config.shape) if of_model is None else of_model(tuple(config.shape))
    except ValueError as error:
        raise ConfigError(f"config.transform: {error}") from error


def warn_of_scales(config: ConfigDict, dataset: Dataset) -> None:
    """One warning if the training examples in model space have other scales than the config assumes."""
    if line := remark_on_scales(config, dataset):
        log.warning("%s", line)


def remark_on_scales(config: ConfigDict, dataset: Dataset) -> str:
    """`scale_remark` for the deviation that the config assumes; "" for a process without a kernel, in its own units."""
    expected = expected_deviation(config)
    if expected is None or not len(dataset.train):
        return ""
    transform = build(config.transform, "config.transform")
    return scale_remark(dataset.train, transform, expected, sigma_data="sigma_data" in config.parameterization)


def expected_deviation(config: ConfigDict) -> float | np.ndarray | None:
    """The deviation that the config assumes of the data in model space; None for a process without a kernel.

    It is sigma_data of the parameterization, else the prior's deviation if the data shrink away (VP), else 1 (VE). A
    prior whose deviations differ between the entries of the last axis gives one number for each.
    """
    sde = build(config.sde, "config.sde")
    if not has_kernel(sde):
        return None
    shrinks = np.max(np.asarray(sde.alpha(sde.t_max))) < 0.1
    prior = np.asarray(sde.prior_std() if shrinks else 1.0, np.float64)
    if prior.ndim > 1:
        return prior.mean(tuple(range(prior.ndim - 1))) if prior.shape[-1] <= MANY else float(prior.mean())
    return float(config.parameterization.get("sigma_data", float(prior.mean())))


def check_batches(config: ConfigDict, devices: Devices) -> None:
    """ConfigError if a batch of training cannot be split over the devices; other batches are padded."""
    size, parts = config.training.batch_size, config.training.get("accumulate", 1)
    if size % devices.count:
        raise ConfigError(f"config.training.batch_size={size} cannot be split over {devices.count} devices")
    if parts < 1 or size % (parts * devices.count):
        raise ConfigError(
            f"config.training.accumulate={parts}: a batch of {size} on {devices.count} devices cannot be processed in "
            f"that many equal parts"
        )


def check_numbers(config: ConfigDict) -> None:
    """ConfigError for a number of config.training or config.eval that is out of range."""
    training = config.training
    for place in ("training", "eval"):
        if config[place].batch_size < 1:
            raise ConfigError(f"config.{place}.batch_size={config[place].batch_size}: expected 1 or more")
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
