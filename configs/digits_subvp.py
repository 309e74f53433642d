"""The digits experiment with the sub-VP process.

    python main.py --config=configs/digits_subvp.py --workdir=runs/digits_subvp

Hardware, time and result: see the README.
"""

from configs.digits import get_config as digits_config
from configs.spec import spec
from sde_lib import SubVP


def get_config():
    config = digits_config()
    config.sde = spec(SubVP)
    return config
