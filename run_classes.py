"""A network that is told classes: config.network.num_classes of them, the labels of the data.

Training, loss and bits per dimension tell it each example's label. Sample i is of the class

    config.sampling.label, or, where that is −1, i mod num_classes:                                        (1)

each in turn, so that a set of samples holds as many of one as of another. `run_lib.load(…).sample(key, n, cond=labels)`
draws any others, and with cond=None those of a network that was trained with cond_dropout and is told none. Such a one
is guided towards its class by config.sampling.guidance (`sde_lib.guidance`); 1 is the score that it learnt.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer
from ml_collections import ConfigDict

from configs.spec import ConfigError
from data_lib import Dataset, gather


def num_classes(config: ConfigDict) -> int:
    """0 for a network that is told none."""
    return config.network.get("num_classes", 0)


def guidance(config: ConfigDict) -> float | None:
    """The weight of the class in sampling; None for 1, at which one call of the network does."""
    weight = config.sampling.get("guidance", 1.0)
    return None if weight == 1 else weight


def check_label(config: ConfigDict) -> None:
    """ConfigError where the class to draw is none of the network's, or guidance finds no unconditional score."""
    if guidance(config) is not None and not (num_classes(config) and config.network.get("cond_dropout", 0)):
        raise ConfigError(
            f"config.sampling.guidance={config.sampling.guidance:g} needs a network that was told classes, and now and "
            f"then none: config.network.num_classes and cond_dropout (0.1, say) in training; without, it is 1"
        )
    count, label = num_classes(config), config.sampling.get("label", -1)
    if count and not -1 <= label < count:
        raise ConfigError(f"config.sampling.label={label}: expected 0 to {count - 1}, or −1 for each class in turn")


def check_labels(config: ConfigDict, dataset: Dataset) -> None:
    """ConfigError where the network is to be told classes, or vectors, that the data lack or a run does not tell."""
    count, vector = num_classes(config), config.network.get("cond_dim", 0)
    if vector and not config.get("augmentation", {}).get("probability", 0):
        raise ConfigError(
            f"config.network.cond_dim={vector}: a run tells the network no vector but that of config.augmentation, "
            f"whose probability is 0; make_train_step takes any as batch['label']"
        )
    for split, source in zip(("train", "held-out"), dataset, strict=True):
        if not count or not len(source):
            continue
        first = gather(source, [0])
        if "label" not in first:
            raise ConfigError(
                f"config.network.num_classes={count} tells the network a class, but the {split} data have no labels"
            )
        label = first["label"]
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            raise ConfigError(
                f"config.network.num_classes={count}: expected a whole number as label of the {split} data, "
                f"got {label.dtype} of shape {label.shape[1:]}"
            )
        for_network(config, {"label": getattr(source, "label", first["label"])})  # in memory: of all examples


def for_network(config: ConfigDict, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch as the network takes it: without labels, unless it is told them. ConfigError for a label beyond."""
    count = num_classes(config)
    if not count:
        return {key: value for key, value in batch.items() if key != "label"}
    low, high = np.min(batch["label"]), np.max(batch["label"])
    if low < 0 or high >= count:
        raise ConfigError(f"labels from {low} to {high}: config.network.num_classes={count} takes 0 to {count - 1}")
    return batch | {"label": np.asarray(batch["label"], np.int32)}


def classes_of(config: ConfigDict, indices: Integer[Array, " B"]) -> Integer[Array, " B"] | None:
    """(1) for samples of these numbers; None where the network is told nothing."""
    count, label = num_classes(config), config.sampling.get("label", -1)
    if not count:
        return None
    return jnp.full(indices.shape, label, jnp.int32) if label >= 0 else (indices % count).astype(jnp.int32)


def abstract_labels(config: ConfigDict, shape: tuple[int, ...], sharding=None) -> dict[str, jax.ShapeDtypeStruct]:
    """What labels add to the shapes of a batch."""
    return {"label": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)} if num_classes(config) else {}
