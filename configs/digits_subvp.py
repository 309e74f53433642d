"""The digits experiment with the sub-VP process.

    python main.py --config=configs/digits_subvp.py --workdir=runs/digits_subvp

Hardware and time as in digits.py. Measured in one run: the Fréchet distance in pixels is 1.12 times that of test
digits, the fraction classified with confidence above 0.9 is 1.00 times theirs.
"""

from config_lib.spec import spec
from configs.digits import expect
from configs.digits import get_config as digits_config
from sde_lib import SubVP


def get_config():
    config = digits_config()
    config.sde = spec(SubVP)
    expect(config, distance=1.12, confident=1.0)
    return config
