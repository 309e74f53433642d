"""--mode=data: describes the data of a config, before anything is trained on them."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build
from data_lib import Dataset, Description, describe, gather
from io_lib import pictures
from run_modes.data import build_data, remark_on_scales
from run_modes.paths import require_config

PICTURES = 100
POINTS = 5000


def describe_data(
    config: ConfigDict, out: str | Path | None = None, dataset: Dataset | None = None, picture: bool = True
) -> Description:
    """Prints a description of config.data, in the units of the data and in model space, with files that cannot be read.

    `out` is a picture to write, .png: 100 training images, or points and histograms of vectors of 1 or 2 coordinates.
    ConfigError if data are missing or cannot be read. ConfigError too for `out` and data of which there is no picture;
    with `picture` False it is left out.
    """
    require_config(config)
    if "on_error" in config.data:
        config.data.on_error = "skip"
    dataset = build_data(config) if dataset is None else dataset
    transform = build(config.transform, "config.transform")
    try:
        found = describe(dataset, transform)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error
    print(found)
    if line := remark_on_scales(config, dataset):
        print(f"scales   {line}")
    if found.train.shape != tuple(config.shape):
        print(f"config.shape is {tuple(config.shape)}: it must be {found.train.shape} to train on these data")
    if out is not None and (picture or drawable(found.train.shape, transform)):
        count = PICTURES if hasattr(transform, "to_uint8") else POINTS
        indices = np.random.default_rng(0).permutation(len(dataset.train))[:count]
        contact_sheet(Path(out), transform, transform.forward(gather(dataset.train, np.sort(indices))["x"]))
        print(f"wrote {out}")
    return found


def drawable(shape: tuple[int, ...], transform) -> bool:
    """Whether `contact_sheet` can draw events of this shape."""
    return (len(shape) == 3 and hasattr(transform, "to_uint8")) or (len(shape) == 1 and shape[0] <= 2)


def contact_sheet(path: Path, transform, x: np.ndarray) -> None:
    """Draws x [N, *shape], in model space. ConfigError if it cannot."""
    if not drawable(x.shape[1:], transform):
        raise ConfigError(f"no picture of events of shape {x.shape[1:]} under {type(transform).__name__}")
    if x.ndim == 4:
        scale = max(1, 32 // x.shape[1])
        picture = pictures.image_grid(transform.to_uint8(x), scale=scale)
    else:
        picture = pictures.point_frames(np.zeros(1), x[None])[0]
    pictures.save_png(path, picture)
