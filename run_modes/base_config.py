"""The config that a run's config is compared with: that of --config before the flags, or else the nearest shipped."""

import contextlib
import functools
import json
from pathlib import Path

from ml_collections import ConfigDict

from config_lib.command_line import shipped, shipped_names
from config_lib.saved import from_json, to_json
from config_lib.spec import ConfigError, differing
from io_lib.workdir import write_atomic

BASE = "base_config.json"

FAR = 20  # differing entries after which the published configs are compared too

Nearest = tuple[str, dict[str, list[str]]]


def write_base(directory: str | Path, name: str, config: ConfigDict) -> None:
    """Records the config that --config=name gave. Of a path only the file's name is stored."""
    content = {"name": Path(name).name, "config": json.loads(to_json(config))}
    write_atomic(Path(directory) / BASE, json.dumps(content, indent=2) + "\n")


def recorded_base(directory: str | Path, config: ConfigDict) -> Nearest | None:
    """(name of the config that `write_base` recorded, what differs), as `nearest_shipped`; None without a record."""
    try:
        content = json.loads((Path(directory) / BASE).read_text())
        return compared(config, {content["name"]: from_json(json.dumps(content["config"]))})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def nearest_shipped(config: ConfigDict) -> Nearest | None:
    """(name of the shipped config with the fewest differing entries, entry → its value there and here).

    Entries that only the shipped config has are left out: a run of an earlier version lacks those that came later.
    None if another package named configs comes first on sys.path.
    """
    try:
        found = compared(config, shipped_configs(published=False))
    except ConfigError:
        return None
    if found is None or len(found[1]) > FAR or found[0] == "cifar10":  # one of the published ones
        found = min(filter(None, [found, compared(config, shipped_configs(published=True))]), key=size, default=None)
    return found


def compared(config: ConfigDict, others: dict[str, ConfigDict]) -> Nearest | None:
    """The nearest of the others, as `nearest_shipped`; None if there are none."""
    pairs = {name: differing([other, config]).items() for name, other in others.items()}
    found = {
        name: {key.removeprefix("config."): values for key, values in pair if values[1] != "(absent)"}
        for name, pair in pairs.items()
    }
    return min(found.items(), key=size, default=None)


def size(found: Nearest) -> int:
    return len(found[1])


@functools.cache
def shipped_configs(published: bool) -> dict[str, ConfigDict]:
    """The configs of the shipped experiments, and configs/base.py; or those of the published ones."""
    if published:
        table = shipped("score_sde")
        return {f"score_sde:{name}": table.get_config(name) for name in table.NAMES}
    found = {"base": shipped("base").base()}
    for name in shipped_names():
        module = shipped(name)
        with contextlib.suppress(ConfigError):  # some require the name of an experiment
            found[name] = module.get_config()
    return found
