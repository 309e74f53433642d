"""CIFAR-10, NCSN++ with VE on a table of 1,000 noise levels.

    python main.py --config=configs/cifar10_ncsnpp_ve_discrete.py --workdir=runs/cifar10_ncsnpp_ve_discrete

As score_sde's configs/ve/cifar10_ncsnpp.py.
Published FID 2.45 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, discrete_ve, ncsnpp, published_fid


def get_config():
    config = discrete_ve(cifar10())
    config.network = ncsnpp()
    return published_fid(config, 2.45)
