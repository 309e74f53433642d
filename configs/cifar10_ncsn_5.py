"""CIFAR-10, NCSN with technique 5 of Song & Ermon 2020: averaging.

    python main.py --config=configs/cifar10_ncsn_5.py --workdir=runs/cifar10_ncsn_5

As score_sde's configs/ve/ncsn/cifar10_5.py.
"""

from configs.published import annealed, cifar10, ncsn


def get_config():
    config = annealed(cifar10(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True)
    config.network = ncsn(10)
    return config
