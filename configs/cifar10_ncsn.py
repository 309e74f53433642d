"""CIFAR-10, NCSN (Song & Ermon 2019, arXiv:1907.05600).

    python main.py --config=configs/cifar10_ncsn.py --workdir=runs/cifar10_ncsn

As score_sde's configs/ve/ncsn/cifar10.py.
"""

from configs.published import annealed, cifar10, ncsn


def get_config():
    config = annealed(cifar10(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True)
    config.network = ncsn(10)
    config.training.ema = 0.0
    return config
