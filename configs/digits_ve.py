"""The digits experiment with the variance-exploding process, preconditioned as by Karras et al. (2022).

    python main.py --config=configs/digits_ve.py --workdir=runs/digits_ve

Hardware and time as in digits.py. Measured in one run: the Fréchet distance in pixels is 1.07 times that of test
digits, the fraction classified with confidence above 0.9 is 0.97 times theirs.
"""

from config_lib.spec import spec
from configs.digits import expect
from configs.digits import get_config as digits_config
from sde_lib import VE, EDMGrid


def get_config():
    config = digits_config()
    config.sde = spec(VE, sigma_min=0.01, sigma_max=20.0)  # σ_max is 27 standard deviations of the data
    config.sampling.pc.grid = spec(EDMGrid)
    config.sampling.ode.grid = spec(EDMGrid)
    config.sampling.sde.grid = spec(EDMGrid)
    expect(config, distance=1.07, confident=0.97)
    return config
