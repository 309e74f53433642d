"""What samples are conditioned on, in all modes that draw samples.

Given rows (--cond=FILE, `cond=`) are taken in turn: sample i has row i mod R. Without them, sample i has the conditions
of one of the n examples of config.eval.reference_split,

    example ⌊n frac((i + ½) φ)⌋,   φ = (√5 − 1)/2,                                                          (1)

which spreads any number of samples evenly over the data, whatever their order. Of a network that is conditioned on
classes alone, sample i has the class that `run_modes.labels` gives it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build
from data_lib import Conditions, Dataset, Source, gather
from data_lib.arrays import load_arrays
from data_lib.conditions import whole
from data_lib.identity import digest
from data_lib.tables import numbers as table_numbers
from data_lib.tables import read_csv
from run_modes.conditions import network_batch
from run_modes.labels import classes_of, for_network, law_name, law_of_classes, num_classes


class SampleConditions(NamedTuple):
    """What samples are conditioned on: cond by their indices, in the units of the data; a line; the cache's key.

    `rows` is the number of given rows, if they are given.
    """

    of: Callable[[Any], Any]
    law: str
    made: dict[str, Any]
    rows: int | None = None


def conditions_of_samples(trained: Any, dataset: Dataset | None = None, cond: Any = None) -> SampleConditions:
    """The conditions of samples: given rows, else classes, else those of examples (1).

    `cond` is an array, a dict of arrays, or a file. ConfigError if they do not fit the network, or if the data to take
    them from are not there.
    """
    experiment = trained.experiment
    if cond is not None:
        return of_rows(experiment, read_cond(cond) if isinstance(cond, str | Path) else cond)
    if experiment.conditions is None:
        return of_classes(trained.config, trained.class_counts, experiment.num_classes)
    split = trained.config.eval.get("reference_split", "train")
    if dataset is None:
        try:
            dataset = build(trained.config.data, "config.data")
        except (FileNotFoundError, ConfigError) as error:
            raise ConfigError(
                f"samples are conditioned on {', '.join(experiment.conditions.names)}, given by --cond=FILE (cond=), "
                f"or else by the data, which cannot be read: {error}"
            ) from error
    source = getattr(dataset, split)
    found = of_examples(experiment, source, split)
    return found._replace(made=found.made | {"cond": digest(source) or _digest(found.of(np.arange(64)))})


def of_classes(config: ConfigDict, counts: Sequence[int] | None, classes: int | None = None) -> SampleConditions:
    """The classes that `run_modes.labels` gives to samples; `classes` is their number, if it is not the network's."""
    count = num_classes(config) if classes is None else classes  # 0: none
    made: dict[str, Any] = {"label": config.sampling.get("label", -1)} if count else {}
    if counts and (law_name(config) == "data" or not all(counts)):
        made |= {"classes": law_name(config), "counts": list(counts)}
    return SampleConditions(
        lambda indices: classes_of(config, jnp.asarray(indices), counts, count),
        law_of_classes(config, counts, count),
        made,
    )


def of_rows(experiment: Any, cond: Any) -> SampleConditions:
    """Sample i has row i mod R of a cond with R rows, in the units of the data."""
    cond = {k: np.asarray(v) for k, v in cond.items()} if isinstance(cond, Mapping) else np.asarray(cond)
    leaves = jax.tree.leaves(cond)
    rows = len(leaves[0]) if leaves and np.ndim(leaves[0]) else 0
    if not rows:
        raise ConfigError("cond: expected one row or more, got none")
    conditions: Conditions | None = experiment.conditions
    try:
        if conditions is not None:
            cond = from_columns(cond, conditions) if isinstance(cond, Mapping) else cond
            mapped = conditions.forward(cond, rows)  # for its errors
            if bad := [leaf.shape for leaf in jax.tree.leaves(mapped) if not np.isfinite(leaf).all()]:
                raise ValueError(f"cond: expected finite numbers, got others in an array of shape {bad[0]}")
            if num_classes(experiment.config) and isinstance(mapped, dict) and "label" in mapped:
                for_network(experiment.config, {"label": mapped["label"]}, null=True)  # for its errors
            found = cond
        elif (count := experiment.num_classes) and np.ndim(named := label_of(cond)) == 1:
            found = for_network(experiment.config, {"label": whole(named, "label")}, True, count)["label"]
        else:
            expected = (
                f"whole numbers from 0 to {count - 1}, or {count} for no class"
                if count
                else "none: the network is unconditional"
            )
            raise ValueError(f"cond: expected {expected}, got {np.asarray(cond).dtype} of shape {np.shape(cond)}")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    take = lambda indices: jax.tree.map(lambda a: a[np.asarray(indices) % rows], found)  # noqa: E731
    return SampleConditions(take, f"conditions of samples: {rows} given rows in turn", {"cond": _digest(found)}, rows)


def label_of(cond: Any) -> Any:
    """The labels of a cond that has nothing else: {"label": labels}, or the labels."""
    return cond["label"] if isinstance(cond, Mapping) and set(cond) == {"label"} else cond


def from_columns(cond: Mapping[str, Any], conditions: Conditions) -> Any:
    """The cond of which a dict has the columns: NAME.0, NAME.1 …, or any name if there is one column and condition."""
    if set(cond) == set(conditions.names):
        return cond
    parts = {name: [key for key in cond if key.rpartition(".")[0] == name] for name in conditions.names}
    if sum(len(part) or name in cond for name, part in parts.items()) == len(cond):
        columns = {name: [cond[f"{name}.{i}"] for i in range(len(part))] for name, part in parts.items() if part}
        return {name: np.stack(columns[name], axis=-1) if name in columns else cond.get(name) for name in parts}
    if conditions.is_single and len(cond) == 1:
        return next(iter(cond.values()))
    shown = ", ".join(f"{name}.0, {name}.1 …" if one.shape else name for name, one in conditions.entries)
    raise ValueError(f"cond: expected columns {shown} in the order of training, got {', '.join(cond)}")


def of_examples(experiment: Any, source: Source, split: str) -> SampleConditions:
    """(1); config.sampling.label replaces the label, if it names one."""
    conditions: Conditions = experiment.conditions
    network_batch(experiment, gather(source, [0]))  # for its errors
    label = experiment.config.sampling.get("label", -1)

    def of(indices: Any) -> Any:
        u = ((np.asarray(indices, np.float64) + 0.5) * (np.sqrt(5) - 1) / 2) % 1
        rows = gather(source, np.minimum((u * len(source)).astype(int), len(source) - 1))
        if label >= 0 and "label" in conditions.names:
            rows["label"] = np.full_like(rows["label"], label)
        return conditions.given(rows)

    shown = f"{', '.join(conditions.names)} of {len(source)} {split} examples, evenly spread"
    return SampleConditions(of, f"conditions of samples: {shown}", {"examples": len(source), "split": split})


def read_cond(path: str | Path) -> Any:
    """The array of an .npy file, the arrays of an .npz file by their names, or the columns of a .csv file.

    A .csv file has one line per sample. A first line of names makes a dict of columns; those of a vector are called
    NAME.0, NAME.1 …. ConfigError for another file.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix.lower() == ".csv":
            return _columns(path)
        arrays = load_arrays(path, "")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--cond={path}: {error}") from error
    return arrays[""] if list(arrays) == [""] else arrays


def _columns(path: Path) -> Any:
    columns = read_csv(path)
    values = {name: table_numbers(path, columns, [name])[:, 0] for name in columns}
    if list(columns) != [str(i) for i in range(len(columns))]:
        return values
    return next(iter(values.values())) if len(values) == 1 else np.stack(list(values.values()), axis=1)


def _digest(tree: Any) -> str:
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]
