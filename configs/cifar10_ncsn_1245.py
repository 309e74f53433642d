"""CIFAR-10, NCSN with techniques 1, 2, 4 and 5 of Song & Ermon 2020: noise levels, steps and averaging.

    python main.py --config=configs/cifar10_ncsn_1245.py --workdir=runs/cifar10_ncsn_1245

As score_sde's configs/ve/ncsn/cifar10_1245.py.
"""

from configs.published import annealed, cifar10, ncsn


def get_config():
    config = annealed(cifar10(), sigma_max=50.0, num_scales=232, steps=5, snr=0.176, plain=True)
    config.network = ncsn(232)
    return config
