"""What a run's network is conditioned on: the label and the cond of each example, in every mode.

    network                                        receives
    with num_classes, cond_dim, cond_channels or   the label if num_classes > 0, the cond if one of the others is
    context_dim (all networks of `models`)
    any other whose call takes cond                all that the examples have
    whose call takes no cond                       nothing; a cond in the data is refused

Data without the label or cond that a network requires are refused. What examples are conditioned on, beyond the
labels of a network with classes, is measured on the training data and recorded in config.cond (`data_lib.conditions`).
It is standardized by these numbers in all modes. `sample_conditions` has those of samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build, spec
from data_lib import Conditions, Dataset, gather
from data_lib.conditions import key_of, keys_in, measured
from data_lib.sources import spread
from models.conditioning import options_for
from models.network import takes
from run_modes.labels import abstract_labels, for_network, num_classes


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
    if others and not conditions and not augmented(config) and not made_by_objective(config):
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


def made_by_objective(config: ConfigDict) -> bool:
    """Whether the objective draws a condition of the network itself."""
    objective = build(config.objective, "config.objective")
    return getattr(getattr(objective, "func", objective), "makes_condition", False)


def shown_options(config: ConfigDict, first: Mapping[str, np.ndarray], keys: Sequence[str]) -> str:
    """The flags that set the options of a network of `models` for these conditions."""
    try:
        found = options_for({key: first[key].shape[1:] for key in keys}, len(config.shape))
    except ValueError as error:
        raise ConfigError(f"the data: {error}") from error
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
