"""What a run's network is conditioned on: the label and the cond of each example, in every mode.

    network                                        receives
    with num_classes, cond_dim, cond_channels or   the label if num_classes > 0, the cond if one of the others is
    context_dim (all networks of `models`)
    any other whose call takes cond                all that the examples have
    whose call takes no cond                       nothing; a cond in the data is refused

Data without the label or cond that a network requires are refused. What examples are conditioned on, beyond the
labels of a network with classes, is measured on the training data and recorded in config.cond (`data_lib.conditions`).
It is standardized by these numbers in all modes.

Samples are conditioned on given rows (--cond=FILE, `cond=`): sample i on row i mod R. Without them, sample i has the
conditions of one of the n examples of config.eval.reference_split,

    example ⌊n frac((i + ½) φ)⌋,   φ = (√5 − 1)/2,                                                          (1)

which spreads any number of samples evenly over the data, whatever their order. Of a network that is conditioned on
classes alone, sample i has the class that `run_modes.labels` gives it.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build, spec
from data_lib import Conditions, Dataset, Source, gather
from data_lib.arrays import load_arrays
from data_lib.conditions import key_of, keys_in, measured, whole
from data_lib.identity import digest
from data_lib.sources import spread
from data_lib.tables import numbers as table_numbers
from data_lib.tables import read_csv
from models.conditioning import options_for
from models.network import takes
from run_modes.labels import abstract_labels, classes_of, for_network, law_name, law_of_classes, num_classes

log = logging.getLogger(__name__)


def built_conditions(config: ConfigDict) -> Conditions | None:
    """The conditions of config.cond, in the order of their names; None if it is empty."""
    found = build(config.get("cond", ConfigDict()), "config.cond")
    return Conditions(tuple(sorted(found.items()))) if found else None


def with_conditions(config: ConfigDict, network: Any, dataset: Dataset, saved: ConfigDict | None = None) -> ConfigDict:
    """The config with config.cond: its own, that of the run's `saved` config, or measured on the training data.

    ConfigError if the network requires what the data lack, or cannot take what they have.
    """
    keys = keys_to_use(config, network, dataset)
    if not keys or (keys == ("label",) and takes(network) is not None):
        return config  # nothing, or classes: no number to record
    if saved is not None and "cond" not in saved:
        return config  # a run of an earlier version, which passed nothing
    config = with_saved_conditions(config, saved)
    if not config.get("cond"):
        config = config.copy_and_resolve_references()
        try:
            found = measured(dataset.train, keys, real=takes(network) is not None)
        except ValueError as error:
            raise ConfigError(f"the data: {error}") from error
        config.cond = ConfigDict({name: spec(type(one), **vars(one)) for name, one in found.items()})
    require_examples(config, network, dataset)
    return config


def with_saved_conditions(config: ConfigDict, saved: ConfigDict | None) -> ConfigDict:
    """The config with the saved config's conditions, if it has none of its own."""
    if saved is None or not saved.get("cond") or config.get("cond"):
        return config
    config = config.copy_and_resolve_references()
    config.cond = saved.cond
    return config


def keys_to_use(config: ConfigDict, network: Any, dataset: Dataset) -> tuple[str, ...]:
    """The flat keys of the examples that the network is conditioned on. ConfigError as in `with_conditions`."""
    options, first = takes(network), gather(dataset.train, [0])
    conditions, label = keys_in(first), ("label",) if "label" in first else ()
    if augmented(config) and conditions:
        raise ConfigError("config.augmentation changes x but not the cond of the data: set its probability to 0")
    if options is None:
        return () if augmented(config) else (*label, *conditions)
    others = [option for option in options if option != "num_classes" and options[option]]
    if conditions and not others:
        remedy = f"set {shown_options(config, first, conditions)}" if options else "its __call__ has no parameter cond"
        raise ConfigError(
            f"the data have {', '.join(conditions)}, but the network takes no cond: {remedy}, or leave it out of the "
            f"data"
        )
    if others and not conditions and not augmented(config):
        raise ConfigError(
            f"config.network.{others[0]}={options[others[0]]} requires a cond in the data, but they have "
            f"{' and '.join(label) or 'none'}: Dataset examples or arrays with a key 'cond', --config.data.cond=NAME"
        )
    if label and not options.get("num_classes"):
        label = ()
    return (*label, *conditions)


def augmented(config: ConfigDict) -> bool:
    """Whether training augments images, and conditions the network on how."""
    return bool(config.get("augmentation", {}).get("probability", 0))


def shown_options(config: ConfigDict, first: Mapping[str, np.ndarray], keys: Sequence[str]) -> str:
    """The flags that set the options of a network of `models` for these conditions."""
    found = options_for([first[key].shape[1:] for key in keys], len(config.shape))
    return " ".join(f"--config.network.{option}={size}" for option, size in found.items())


def require_examples(config: ConfigDict, network: Any, dataset: Dataset) -> None:
    """ConfigError if an example of either split does not fit config.cond, or the network cannot take its cond."""
    conditions = built_conditions(config)
    assert conditions is not None
    for split, source in zip(("training", "test"), dataset, strict=True):
        try:
            if len(source):
                conditions.of_batch(gather(source, [0]))
        except (KeyError, ValueError) as error:
            raise ConfigError(f"config.cond: the {split} data do not fit it: {error}") from error
    x, c_noise = jnp.zeros((1, *config.shape), jnp.float32), jnp.zeros(1, jnp.float32)
    try:
        params = jax.eval_shape(network.init, jax.random.key(0), x, c_noise, conditions.zeros(1))
        jax.eval_shape(lambda p, cond: network(p, x, c_noise, cond=cond), params, conditions.zeros(1))
    except Exception as error:  # of any class: networks and JAX raise their own
        what = str(error).split("\n")[0]
        raise ConfigError(f"config.network cannot be conditioned on {', '.join(conditions.names)}: {what}") from error


def ignored(network: Any, conditions: Conditions, dataset: Dataset, shape: tuple[int, ...]) -> list[str]:
    """The names of conditions on which the network's output does not depend, whatever its parameters.

    At random parameters, since many networks are 0 at first: the output must change when the condition of one example
    is given to another.
    """
    rows = gather(dataset.train, spread(dataset.train, 16))
    size, key = len(rows["x"]), jax.random.key(0)
    x, c_noise = jax.random.normal(key, (size, *shape), jnp.float32), jnp.linspace(-1, 1, size, dtype=jnp.float32)
    cond = conditions.of_batch(rows)
    shapes = jax.eval_shape(network.init, key, x, c_noise, cond)
    leaves, treedef = jax.tree.flatten(shapes)
    keys = jax.random.split(key, max(1, len(leaves)))
    draw = lambda k, leaf: 0.3 * jax.random.normal(k, leaf.shape, leaf.dtype)  # noqa: E731
    params = treedef.unflatten([draw(k, leaf) for k, leaf in zip(keys, leaves, strict=False)])
    call = jax.jit(lambda cond: network(params, x, c_noise, cond=cond))
    out, found = call(cond), []
    for name in conditions.names:
        values = cond if conditions.is_single else cond[name]
        other = np.roll(values, 1, axis=0)
        if np.array_equal(other, values):
            continue  # all examples have the same
        changed = call(other if conditions.is_single else cond | {name: other})
        if np.array_equal(out, changed, equal_nan=True):
            found.append(name)
    return found


def network_batch(experiment: Any, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """A batch of examples as the training step takes it: x, mask, and what the network is conditioned on."""
    conditions: Conditions | None = experiment.conditions
    if conditions is not None and (missing := [n for n in conditions.names if key_of(n) not in batch]):
        raise ConfigError(
            f"the network is conditioned on {', '.join(missing)}, which the data lack: pass the dataset (dataset=), or "
            f"set config.data"
        )
    if conditions is None:
        rest = {key: value for key, value in batch.items() if key not in keys_in(batch)}
        return for_network(experiment.config, rest)
    if num_classes(experiment.config) and "label" in conditions.names:
        for_network(experiment.config, {"label": batch["label"]})  # for its errors
    kept = {key: batch[key] for key in ("x", "mask") if key in batch}
    return kept | {"cond": conditions.of_batch(batch)}


def given_conditions(experiment: Any, batch: dict[str, np.ndarray]) -> Any:
    """The cond of a batch of examples in the units of the data, as a ScoreModel takes it."""
    conditions: Conditions | None = experiment.conditions
    return network_batch(experiment, batch).get("label") if conditions is None else conditions.given(batch)


def abstract_conditions(experiment: Any, shape: tuple[int, ...], sharding: Any = None) -> dict[str, Any]:
    """The entries that conditions add to an abstract batch of this shape [B] (or [steps, B])."""
    conditions: Conditions | None = experiment.conditions
    if conditions is None:
        return abstract_labels(experiment.config, shape, sharding)
    one = lambda leaf: jax.ShapeDtypeStruct((*shape, *leaf.shape[1:]), leaf.dtype, sharding=sharding)  # noqa: E731
    return {"cond": jax.tree.map(one, conditions.zeros(1))}


# Samples


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
        return of_classes(trained.config, trained.class_counts)
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


def of_classes(config: ConfigDict, counts: Sequence[int] | None) -> SampleConditions:
    """The classes that `run_modes.labels` gives to samples."""
    made: dict[str, Any] = {"label": config.sampling.get("label", -1)} if num_classes(config) else {}
    if counts and (law_name(config) == "data" or not all(counts)):
        made |= {"classes": law_name(config), "counts": list(counts)}
    return SampleConditions(
        lambda indices: classes_of(config, jnp.asarray(indices), counts), law_of_classes(config, counts), made
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
                for_network(experiment.config, {"label": mapped["label"]})  # for its errors
            found = cond
        elif num_classes(experiment.config) and np.ndim(named := label_of(cond)) == 1:
            found = for_network(experiment.config, {"label": whole(named, "label")})["label"]
        else:
            count = num_classes(experiment.config)
            expected = f"whole numbers from 0 to {count - 1}" if count else "none: the network is unconditional"
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
