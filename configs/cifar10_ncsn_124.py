"""CIFAR-10, NCSN with techniques 1, 2 and 4 of Song & Ermon 2020: noise levels and steps.

    python main.py --config=configs/cifar10_ncsn_124.py --workdir=runs/cifar10_ncsn_124

As score_sde's configs/ve/ncsn/cifar10_124.py.
"""

from configs.published import annealed, cifar10, ncsn


def get_config():
    config = annealed(cifar10(), sigma_max=50.0, num_scales=232, steps=5, snr=0.176, plain=True)
    config.network = ncsn(232)
    config.training.ema = 0.0
    return config
