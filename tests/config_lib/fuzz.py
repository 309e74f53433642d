"""Random changes of a config, and the way that they take before anything is compiled.

    key      a letter of a dotted key is dropped, doubled, swapped or another
    value    a text of another type, of no type, of an impossible or an odd size, for a key that there is

What a change leads to is one of: accepted, or a refusal in one line. Whatever else comes out is a fault.
"""

from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from config_lib.command_line import apply_overrides
from config_lib.names import ConfigError
from config_lib.saved import from_json, to_json
from run_modes.data import load_data
from run_modes.experiment import make_experiment
from run_modes.training_loop import check_shapes

VALUES = (
    "abc", "", "None", "True", "nan", "inf", "1e400", "-1", "0", "1", "2", "3.5", "-2.5", "1e-30", "1e30", "(1,2)",
    "(1,", "()", "('a',)", "{}", "99999999999999999999", "os:system", "sde_lib:VE", "\u00e9", "0x10",
)  # fmt: skip


def keys_of(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def misspelt(key: str, generator: np.random.Generator) -> str:
    """One letter of the last part dropped, doubled, swapped with the next, or another."""
    *path, name = key.split(".")
    i, kind = int(generator.integers(len(name))), generator.integers(4)
    letter = "abcdefghijklmnopqrstuvwxyz_"[generator.integers(27)]
    swapped = name[:i] + name[i + 1 : i + 2] + name[i] + name[i + 2 :]
    wrong = (name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:], swapped, name[:i] + letter + name[i + 1 :])[kind]
    return ".".join([*path, wrong]) if wrong != name else misspelt(key, generator)


def change(config: ConfigDict, generator: np.random.Generator) -> tuple[str, str, str]:
    """A flag, whether it is of the kind `key` or `value`, and the key that there is."""
    keys = list(keys_of(config))
    key, value = keys[generator.integers(len(keys))], VALUES[generator.integers(len(VALUES))]
    if generator.random() < 0.3:
        return f"--config.{misspelt(key, generator)}={value}", "key", key
    return f"--config.{key}={value}", "value", key


def outcome(config: ConfigDict, flag: str) -> str | None:
    """None where the config is taken, and comes back from JSON as it was; else the refusal. Other errors pass."""
    try:
        changed = apply_overrides(config, [flag])
        assert to_json(from_json(to_json(changed))) == to_json(changed)
        experiment = make_experiment(changed, jax.devices()[:1])
        load_data(changed, experiment.devices, training=True)
        check_shapes(experiment)
    except (flags.Error, ConfigError) as error:
        return str(error)
    return None
