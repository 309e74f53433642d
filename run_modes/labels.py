"""Class labels: the labels of the data, for a network with config.network.num_classes classes.

In training, test loss and bits per dimension the network is conditioned on each example's label. Sample i has the class

    config.sampling.label, or, if that is −1, i mod num_classes,                                           (1)

so that all classes are equally frequent. `run_lib.load(…).sample(key, n, cond=labels)` draws samples of any labels, and
cond=None draws unconditional samples from a network that was trained with cond_dropout. Such a network can be guided
toward the class by config.sampling.guidance (`sde_lib.guidance`); 1 is the score as learned.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, gather, remarks
from data_lib.layout import label_remark

log = logging.getLogger(__name__)


def num_classes(config: ConfigDict) -> int:
    """0 for a network without classes."""
    return config.network.get("num_classes", 0)


def guidance(config: ConfigDict) -> float | None:
    """The guidance scale in sampling; None for 1, which needs one call of the network instead of two."""
    weight = config.sampling.get("guidance", 1.0)
    return None if weight == 1 else weight


def check_label(config: ConfigDict) -> None:
    """ConfigError if the network lacks the class to draw, or lacks the unconditional score that guidance requires."""
    if guidance(config) is not None and not (num_classes(config) and config.network.get("cond_dropout", 0)):
        raise ConfigError(
            f"config.sampling.guidance={config.sampling.guidance:g} requires a network trained with and without "
            f"classes: config.network.num_classes, and cond_dropout (0.1, say) in training; otherwise it must be 1"
        )
    count, label = num_classes(config), config.sampling.get("label", -1)
    if count and not -1 <= label < count:
        raise ConfigError(f"config.sampling.label={label}: expected 0 to {count - 1}, or −1 for each class in turn")


def check_labels(config: ConfigDict, dataset: Dataset) -> None:
    """ConfigError if the network is conditioned on classes the data lack, or on a vector that a run does not supply.

    One warning for each doubt about the layout of events and labels.
    """
    for line in remarks(dataset):
        log.warning("%s", line)
    count, vector = num_classes(config), config.network.get("cond_dim", 0)
    if vector and not config.get("augmentation", {}).get("probability", 0):
        raise ConfigError(
            f"config.network.cond_dim={vector}: the only vector a run supplies is that of config.augmentation, whose "
            f"probability is 0; make_train_step takes any vector as batch['label']"
        )
    for split, source in zip(("training", "test"), dataset, strict=True):
        if not count or not len(source):
            continue
        first = gather(source, [0])
        if "label" not in first:
            raise ConfigError(f"config.network.num_classes={count} requires labels, but the {split} data have none")
        label = first["label"]
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            hint = label_remark(getattr(source, "label", label))
            raise ConfigError(
                f"config.network.num_classes={count}: expected an integer label for each of the {split} data, "
                f"got {label.dtype} of shape {label.shape[1:]}{'; ' if hint else ''}{hint}"
            )
        for_network(config, {"label": getattr(source, "label", first["label"])})  # all labels if they are in memory


def for_network(config: ConfigDict, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with int32 labels for a network with classes, else without labels. ConfigError for an unknown class."""
    count = num_classes(config)
    if not count:
        return {key: value for key, value in batch.items() if key != "label"}
    low, high = np.min(batch["label"]), np.max(batch["label"])
    if low < 0 or high >= count:
        raise ConfigError(f"labels from {low} to {high}: config.network.num_classes={count} allows 0 to {count - 1}")
    return batch | {"label": np.asarray(batch["label"], np.int32)}


def classes_of(config: ConfigDict, indices: Integer[Array, " B"]) -> Integer[Array, " B"] | None:
    """(1) for the samples of these indices; None for a network without classes."""
    count, label = num_classes(config), config.sampling.get("label", -1)
    if not count:
        return None
    return jnp.full(indices.shape, label, jnp.int32) if label >= 0 else (indices % count).astype(jnp.int32)


def abstract_labels(config: ConfigDict, shape: tuple[int, ...], sharding=None) -> dict[str, jax.ShapeDtypeStruct]:
    """The entry that labels add to an abstract batch."""
    return {"label": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)} if num_classes(config) else {}
