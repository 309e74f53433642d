"""Digits with any part missing: a score given the known pixels, exact up to the network's error (EPS), and one of p(x).

    python main.py --config=configs/digits_inpaint.py --workdir=runs/digits_inpaint
    python main.py --mode=restore --workdir=runs/digits_inpaint --task=inpaint --mask=FILE --images=DIR --noise_std=0

Hardware and time as in digits.py. The network also receives the mask of the known pixels, drawn at random: boxes and
scattered pixels. Known pixels are exact: noise_std is 0.
"""

from config_lib.spec import bind, spec
from configs.digits import get_config as digits_config
from sde_lib.posterior import EPS, MaskedDenoising


def get_config():
    config = digits_config()
    config.objective = bind(MaskedDenoising)
    config.network.cond_channels = 1  # the mask
    config.restore.method = spec(EPS)
    return config
