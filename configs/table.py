"""A table of your own, rows of numbers: VP and a residual network.

    python main.py --config=configs/table.py --data=FILE.npz --workdir=runs/table

The file has an array x [N, columns]. Each column is standardized (more than 16 share one mean and deviation). The
numbers are recorded in config.json; samples have the units of the data.
"""

from config_lib.spec import spec
from configs.starting import starting_point
from data_lib import Standardize, from_npz
from models import MLP


def get_config():
    config = starting_point((5,), sigma_data=1.0, learning_rate=2e-3, num_steps=5000)
    config.data = spec(from_npz, path="table.npz")
    config.transform = spec(Standardize)
    config.network = spec(MLP, features=256, num_layers=4)
    config.training.update(batch_size=512, ema=0.995)
    return config
