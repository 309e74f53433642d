"""A table of your own, rows of numbers: a residual network.

    python main.py --config=configs/table.py --data=FILE.npz --workdir=runs/table

The file has an array x [N, columns]. Each column is standardized, however many there are. The numbers are recorded in
config.json; samples have the units of the data.
"""

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import build, spec
from configs.starting import Choice, label_choice, noise_choices, starting_point, training_choices
from data_lib import Standardize, from_npz
from models import MLP


def table_choices(config: ConfigDict, x: np.ndarray, about: dict) -> list[Choice]:
    """The noise levels and training, each with its reason."""
    network = build(config.network, "config.network")
    layers = f"{network.num_layers} residual layers of {network.features}" if isinstance(network, MLP) else "your own"
    return [
        Choice("shape", "the columns of the data, each standardized"),
        *noise_choices(config, x),
        Choice("network", f"{layers}, for any number of columns"),
        *label_choice(about["classes"]),
        *training_choices(config, about["examples"]),
        Choice("eval.features.call", "samples are compared column by column and by a classifier"),
    ]


def get_config() -> ConfigDict:
    config = starting_point((5,), sigma_data=1.0, learning_rate=2e-3, num_steps=5000, choices=table_choices)
    config.each_column = True  # --data standardizes each column, also if there are more than 16
    config.data = spec(from_npz, path="table.npz")
    config.transform = spec(Standardize)
    config.network = spec(MLP, features=256, num_layers=4)
    config.training.update(batch_size=512, ema=0.995)
    return config
