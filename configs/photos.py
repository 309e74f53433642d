"""Photographs of your own, of any size: VP and a DDPM++ whose depth follows the resolution.

    python main.py --config=configs/photos.py --data=FOLDER --workdir=runs/photos
    python main.py --config=configs/photos.py --data=FOLDER --workdir=runs/photos128 --config.shape="(128, 128, 3)"

Images are cropped to the ratio of config.shape, resized, and mirrored left to right with probability ½ in training
(--config.training.flip=False where left and right differ, as in text). Subfolders are classes, which the network
ignores unless --config.network.num_classes is set.
"""

import math

from config_lib.spec import spec
from configs.starting import starting_point
from data_lib import from_folder
from models import NCSNpp

COARSEST = 8  # pixels along the shorter side at the lowest resolution
ATTENTION = 16  # pixels: resolutions up to this have attention


def photo_network(
    shape: tuple[int, ...] = (64, 64, 3),
    nf: int = 64,
    num_res_blocks: int = 2,
    dropout: float = 0.1,
    num_classes: int = 0,
    cond_dropout: float = 0.0,
    dtype: str | None = None,
    remat: bool = False,
) -> NCSNpp:
    """DDPM++ for images [H, W, C]: it halves the resolution while the shorter side stays at least 8 pixels.

    Channels are nf at full resolution and 2 nf below. Attention is where the shorter side has at most 16 pixels.
    """
    shorter = min(shape[:2])
    levels = 1 + max(0, math.floor(math.log2(shorter / COARSEST)))
    return NCSNpp(
        nf=nf,
        ch_mult=(1, *(2,) * (levels - 1)),
        num_res_blocks=num_res_blocks,
        attn_resolutions=(),
        attn_levels=tuple(k for k in range(levels) if shorter / 2**k <= ATTENTION),
        dropout=dropout,
        num_classes=num_classes,
        cond_dropout=cond_dropout,
        dtype=dtype,
        remat=remat,
    )


def get_config():
    config = starting_point((64, 64, 3), sigma_data=0.5, learning_rate=2e-4, num_steps=100_000)
    config.data = spec(from_folder, path="photos", shape=(64, 64, 3))
    config.data.shape = config.get_oneway_ref("shape")
    config.network = spec(photo_network, shape=(64, 64, 3))
    config.network.shape = config.get_oneway_ref("shape")
    config.training.update(batch_size=64, flip=True, ema=0.9995, sample_every=2000)
    return config
