"""Paths in a config that mean the same files from every folder."""

import os
from typing import Any

from ml_collections import ConfigDict

from config_lib.names import ConfigError
from io_lib import hub


def require_config(config: Any) -> None:
    """ConfigError unless it is a config: the first argument of `train`, not a directory."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config: expected a config, get_config() of configs.digits for instance; got {type(config).__name__}"
        )


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
    """A copy whose paths mean the same files from every folder: of data, reference, initial parameters, classifier.

    In config.data, a path is an argument `path`, or a `labels` or `data_dir` that exists; in config.eval.features, a
    `path` or `weights` that exists. What contains :// stays as it is, and so does hf:OWNER/NAME.
    """
    require_config(config)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for section, name in ((config.eval, "reference"), (config, "initial"), (config.sampling, "classifier")):
            if section.get(name, ""):
                section[name] = _absolute(section[name])
        data = config.get("data", ConfigDict())
        for name in ("path", "labels", "data_dir"):
            if not isinstance(value := data.get(name), str) or not value:
                continue
            ours = name == "path" and str(data.get("call", "")).startswith("data_lib:")
            if ours or os.path.exists(_absolute(value)):
                data[name] = _absolute(value)
        features = config.eval.get("features", ConfigDict())
        for name in ("path", "weights"):
            if isinstance(value := features.get(name), str) and os.path.exists(_absolute(value)):
                features[name] = _absolute(value)
    return config


def _absolute(path: str) -> str:
    return path if "://" in path or hub.is_remote(path) else os.path.abspath(os.path.expanduser(path))
