"""Class labels: the labels of the data, for a network with config.network.num_classes classes.

In training, test loss and bits per dimension the network is conditioned on each example's label. Of the K classes that
have n_k > 0 training examples, sample i has the class

    config.sampling.label, or, if that is −1,
    the (i mod K)-th of them,                         if config.sampling.classes is "uniform",             (1)
    the first with Σ_{j ≤ k} n_j / Σ_j n_j > u_i,     if it is "data"; u_i = frac((i + ½) φ),              (2)

where φ = (√5 − 1)/2. The u_i are a sequence of low discrepancy: among the first m, the share of those in any interval
is its length to O(log m / m) (H. Niederreiter, Random Number Generation and Quasi-Monte Carlo Methods, 1992, ch. 3).
If the counts are unknown, all num_classes classes are drawn by (1).

`run_lib.load(…).sample(key, n, cond=labels)` draws samples of any labels, and cond=None draws unconditional samples
from a network that was trained with cond_dropout. Such a network can be guided toward the class by
config.sampling.guidance (`sde_lib.guidance`); 1 is the score as learned. A classifier guides samples of any network to
its own classes (`run_modes.guidance`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, gather
from data_lib.layout import label_remark
from models.conditioning import OPTIONS

LAWS = ("uniform", "data")
GOLDEN = 2654435769  # ⌊2³² φ⌋, odd: the multiples mod 2³² are 2³² times the fractions of (2)


def num_classes(config: ConfigDict) -> int:
    """0 for a network without classes."""
    return config.network.get("num_classes", 0)


def _count(config: ConfigDict, classes: int | None) -> int:
    """The number of classes: the network's, unless it is given."""
    return num_classes(config) if classes is None else classes


def guidance(config: ConfigDict) -> float | dict[str, float] | None:
    """The guidance scale in sampling, or that of each condition; None for 1, which needs one call of the network."""
    if each := config.sampling.get("guidance_each"):
        return {name: float(scale) for name, scale in each.items()}
    weight = config.sampling.get("guidance", 1.0)
    return None if weight == 1 else weight


def check_label(config: ConfigDict, classes: int | None = None) -> None:
    """ConfigError if the network lacks the class to draw, or lacks the unconditional score that guidance requires.

    `classes` is the number of classes of samples, if it is not the network's: a classifier's.
    """
    scales, network = guidance(config), config.network
    if isinstance(scales, dict):
        if not network.get("cond_dropout_each", 1):
            raise ConfigError(
                "config.sampling.guidance_each requires a network trained without each of its conditions: "
                "config.network.cond_dropout_each (0.05, say)"
            )
    elif scales is not None and not may_be_guided(config):
        raise ConfigError(
            f"config.sampling.guidance={scales:g} requires a network trained with and without its condition: "
            f"config.network.num_classes or cond_dim, and cond_dropout (0.1, say); otherwise it must be 1"
        )
    count, label = _count(config, classes), config.sampling.get("label", -1)
    if count and not -1 <= label < count:
        raise ConfigError(f"config.sampling.label={label}: expected 0 to {count - 1}, or −1 for each class in turn")
    if (law := law_name(config)) not in LAWS:
        raise ConfigError(f"config.sampling.classes={law!r}: expected one of {', '.join(LAWS)}")


def may_be_guided(config: ConfigDict) -> bool:
    """Whether the network may have an unconditional score: not known of networks without the option cond_dropout."""
    network = config.network
    if "cond_dropout" not in network:
        return "num_classes" not in network
    return bool(network.cond_dropout) and any(network.get(option, 0) for option in OPTIONS.values())


def law_name(config: ConfigDict) -> str:
    """config.sampling.classes, which earlier configs lack."""
    return config.sampling.get("classes", "uniform")


def check_labels(config: ConfigDict, dataset: Dataset) -> None:
    """ConfigError if the network is conditioned on classes that the data lack."""
    count = num_classes(config)
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


def for_network(
    config: ConfigDict, batch: dict[str, np.ndarray], null: bool = False, classes: int | None = None
) -> dict[str, np.ndarray]:
    """The batch with int32 labels for a network with classes, else without labels. ConfigError for an unknown class.

    With `null`, num_classes is allowed too: it means no class, for a network trained with cond_dropout. `classes` is as
    in `check_label`.
    """
    count = _count(config, classes)
    if not count:
        return {key: value for key, value in batch.items() if key != "label"}
    low, high = np.min(batch["label"]), np.max(batch["label"])
    null = null and bool(config.network.get("cond_dropout", 1) or config.network.get("cond_dropout_each", 0))
    if low < 0 or high >= count + null:
        whose = f"config.network.num_classes={count}" if num_classes(config) else f"a classifier of {count} classes"
        raise ConfigError(f"labels from {low} to {high}: {whose} allows 0 to {count - 1}")
    return batch | {"label": np.asarray(batch["label"], np.int32)}


def class_counts(config: ConfigDict, dataset: Dataset) -> tuple[int, ...] | None:
    """Training examples of each of the num_classes classes; None without classes, or if labels are not in memory."""
    count, label = num_classes(config), getattr(dataset.train, "label", None)
    if not count or not isinstance(label, np.ndarray) or label.ndim != 1 or label.dtype.kind not in "iu":
        return None
    return tuple(np.bincount(label, minlength=count).tolist())


def classes_of(
    config: ConfigDict,
    indices: Integer[Array, " B"],
    counts: Sequence[int] | None = None,
    classes: int | None = None,
) -> Integer[Array, " B"] | None:
    """(1) or (2) for the samples of these indices; None for a network without classes.

    `counts` are the training examples of each class, None if they are unknown; `classes` is as in `check_label`.
    ConfigError for a class that has none, if config.sampling.label names it, and for "data" without counts.
    """
    label = config.sampling.get("label", -1)
    if not _count(config, classes):
        return None
    present = drawn_classes(config, counts, classes)
    if label >= 0:
        return jnp.full(indices.shape, label, jnp.int32)
    if law_name(config) == "uniform" or counts is None:
        return jnp.asarray(present, jnp.int32)[indices % len(present)]
    shares = np.cumsum([counts[k] for k in present], dtype=np.float64) / sum(counts)
    ends = jnp.asarray(np.floor(shares[:-1] * 2**32).astype(np.uint32))
    u = indices.astype(jnp.uint32) * jnp.uint32(GOLDEN) + jnp.uint32(GOLDEN // 2)  # (2) times 2³², exact for any i
    return jnp.asarray(present, jnp.int32)[jnp.searchsorted(ends, u, side="right")]


def drawn_classes(config: ConfigDict, counts: Sequence[int] | None, classes: int | None = None) -> list[int]:
    """The classes that samples may have. ConfigError as in `classes_of`."""
    count, label = _count(config, classes), config.sampling.get("label", -1)
    if counts is None:
        if label < 0 and law_name(config) == "data":
            raise ConfigError(
                "config.sampling.classes='data' requires the number of training examples of each class, which is "
                "unknown for this run: set it to 'uniform'"
            )
        return list(range(count)) if label < 0 else [label]
    if label >= 0 and not counts[label]:
        raise ConfigError(f"config.sampling.label={label}: no training example has this class, so it was not learned")
    return [k for k in range(count) if counts[k]] if label < 0 else [label]


def law_of_classes(config: ConfigDict, counts: Sequence[int] | None = None, classes: int | None = None) -> str:
    """A line for a report: the classes of its samples. "" for a network without classes."""
    count, label = _count(config, classes), config.sampling.get("label", -1)
    if not count:
        return ""
    present = drawn_classes(config, counts, classes)
    if label >= 0:
        return f"classes of samples: {label} only"
    if counts is None:
        return f"classes of samples: each of {count} in turn; their numbers of training examples are unknown"
    without = [k for k in range(count) if not counts[k]]
    left = f"; not drawn, as no training example has them: {_listed(without)}" if without else ""
    if law_name(config) == "data":
        return f"classes of samples: {len(present)}, in the shares of the training data{left}"
    return f"classes of samples: each of {len(present)} in turn{left}"


def _listed(classes: Sequence[int]) -> str:
    more = f", … ({len(classes)} classes)" if len(classes) > 10 else ""
    return ", ".join(map(str, classes[:10])) + more


def abstract_labels(config: ConfigDict, shape: tuple[int, ...], sharding=None) -> dict[str, jax.ShapeDtypeStruct]:
    """The entry that labels add to an abstract batch."""
    return {"label": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)} if num_classes(config) else {}
