"""CIFAR-10, NCSNv2 (Song & Ermon 2020, arXiv:2006.09011).

    python main.py --config=configs/cifar10_ncsnv2.py --workdir=runs/cifar10_ncsnv2

As score_sde's configs/ve/ncsnv2/cifar10.py.
"""

from configs.published import annealed, cifar10, ncsnv2


def get_config():
    config = annealed(cifar10(), sigma_max=50.0, num_scales=232, steps=5, snr=0.176)
    config.network = ncsnv2(32)
    return config
