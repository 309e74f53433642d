"""Signals of your own, [length, channels], of any length: a one-dimensional DDPM++ whose depth follows it.

    python main.py --config=configs/signals.py --data=FILE.npz --workdir=runs/signals

The file has an array x [N, length, channels], whose shape becomes config.shape. Each channel is
standardized. Mean and deviation are recorded in config.json; samples have the units of the data.
"""

from config_lib.spec import spec
from configs.starting import array_choices, array_network, starting_point
from data_lib import Standardize, from_npz
from eval_lib import PyramidFeatures


def get_config():
    config = starting_point((256, 1), sigma_data=1.0, learning_rate=1e-3, num_steps=20_000, choices=array_choices)
    config.data = spec(from_npz, path="signals.npz")
    config.transform = spec(Standardize)
    config.network = spec(array_network, shape=(256, 1), nf=32, coarsest=32, attention=64)
    config.network.shape = config.get_oneway_ref("shape")
    config.training.update(batch_size=64)
    config.eval.features = spec(PyramidFeatures)
    return config
