"""CIFAR-10, NCSN++ with DDPM's 1,000 noise levels.

    python main.py --config=configs/cifar10_ncsnpp_vp_discrete.py --workdir=runs/cifar10_ncsnpp_vp_discrete

As score_sde's configs/vp/cifar10_ncsnpp.py.
"""

from configs.published import cifar10, discrete_vp, ncsnpp
from sde_lib.solvers import ReverseDiffusion


def get_config():
    config = discrete_vp(cifar10(), predictor=ReverseDiffusion())
    config.network = ncsnpp()
    return config
