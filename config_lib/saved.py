"""A config as JSON text, and the difference of two configs.

JSON has one kind of sequence: every sequence is read back as a tuple. 1 and 1.0 remain different; a placeholder without
a value is null; NaN and infinities are refused.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from config_lib.names import ConfigError
from config_lib.old_names import current_config
from config_lib.types import as_config_value


def to_json(config: ConfigDict) -> str:
    """The config as JSON, sorted and indented, so that equal configs are equal texts.

    ConfigError, naming the key, for a value that a config cannot hold.
    """
    return json.dumps(_plain(config, "config"), sort_keys=True, indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote, now or in an earlier version (`old_names`). ConfigError if it is not one."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"expected a config as JSON, got {text[:40]!r} ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"expected a config as a JSON object, got {type(values).__name__}")
    return _from_plain(current_config(_plain(values, "config")))


def diff(a: ConfigDict, b: ConfigDict) -> list[str]:
    """The changes from a to b, one line per key: `config.sde.beta_max: 20.0 -> 15.0`."""
    old, new = dict(_leaves(_plain(a, "config"))), dict(_leaves(_plain(b, "config")))
    changed = [key for key in sorted({*old, *new}) if old.get(key, "(absent)") != new.get(key, "(absent)")]
    return [f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}" for key in changed]


def differing(configs: list[ConfigDict]) -> dict[str, list[str]]:
    """Key → its value in each config, as text, for the keys that are not the same in all."""
    leaves = [dict(_leaves(_plain(config, "config"))) for config in configs]
    keys = sorted({key for each in leaves for key in each})
    values = {key: [each.get(key, "(absent)") for each in leaves] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def nearest_key_message(config: ConfigDict, dotted_key: str) -> str:
    """`unknown config key config.sde.beta_mx; nearest: config.sde.beta_max`."""
    key = dotted_key.removeprefix("config.")
    keys = sorted(_keys(_plain(config, "config")))
    elsewhere = [known for known in keys if known.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    found = elsewhere or difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"unknown config key config.{key}" + (f"; nearest: config.{found[0]}" if found else "")


def _plain(value: Any, where: str) -> Any:
    """The value as plain dicts, tuples and scalars, all checked, with FieldReferences resolved."""
    if isinstance(value, Mapping | ConfigDict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"{where}: the keys of a config are str, got {wrong[0]!r}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    return as_config_value(value, where)


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ConfigDict({key: _from_plain(item) for key, item in value.items()})
    if isinstance(value, tuple):
        return tuple(_from_plain(item) for item in value)
    return config_dict.placeholder(object) if value is None else value  # so that a flag can still set it


def _keys(plain: dict, prefix: str = "") -> Iterator[str]:
    """The dotted keys of values and of sections."""
    for key, value in plain.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _leaves(plain: Any, prefix: str = "config") -> Iterator[tuple[str, str]]:
    """Dotted keys and the repr of their values, which distinguishes 1, 1.0 and True."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from _leaves(value, f"{prefix}.{key}")
    else:
        yield prefix, repr(plain)
