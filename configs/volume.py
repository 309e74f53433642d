"""Volumes of your own, [D, H, W, channels]: VP and a three-dimensional DDPM++.

    python main.py --config=configs/volume.py --data=FILE.npz --workdir=runs/volume

The file has an array x [N, D, H, W, channels], whose shape becomes config.shape. Each channel is
standardized. Mean and deviation are recorded in config.json; samples have the units of the data.
"""

from config_lib.spec import spec
from configs.starting import starting_point
from data_lib import Standardize, from_npz
from models import NCSNpp


def get_config():
    config = starting_point((16, 16, 16, 1), sigma_data=1.0, learning_rate=1e-3, num_steps=20_000)
    config.data = spec(from_npz, path="volumes.npz")
    config.transform = spec(Standardize)
    config.network = spec(
        NCSNpp, nf=16, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(), attn_levels=(2,), dropout=0.0
    )
    config.training.update(batch_size=16)
    return config
