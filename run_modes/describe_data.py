"""--mode=data: describes the data of a config, before anything is trained on them."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, Description, describe, form_of, gather
from run_modes.data import build_data, build_transform, remark_on_scales
from run_modes.paths import require_config


def describe_data(config: ConfigDict, out: str | Path | None = None, dataset: Dataset | None = None) -> Description:
    """Prints a description of config.data, in the units of the data and in model space, with files that cannot be read.

    `out` is a file to write, FILE.png: it shows random training examples as samples are shown. Sounds have FILE.wav in
    addition, and texts FILE.txt instead. ConfigError if data are missing or cannot be read.
    """
    require_config(config)
    if "on_error" in config.data:
        config.data.on_error = "skip"
    dataset = build_data(config) if dataset is None else dataset
    transform = build_transform(config)
    try:
        found = describe(dataset, transform)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error
    print(found)
    if line := remark_on_scales(config, dataset):
        print(f"scales   {line}")
    if found.train.shape != tuple(config.shape):
        print(f"config.shape is {tuple(config.shape)}: it must be {found.train.shape} to train on these data")
    if out is not None:
        form = form_of(transform, found.train.shape)
        indices = np.random.default_rng(0).permutation(len(dataset.train))[: form.shown]
        files = form.preview(Path(out).with_suffix(""), form.of_data(gather(dataset.train, np.sort(indices))["x"]))
        print(f"wrote {', '.join(map(str, files))}")
    return found
