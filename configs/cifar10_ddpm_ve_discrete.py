"""CIFAR-10, DDPM's network with VE on a table of 1,000 noise levels.

    python main.py --config=configs/cifar10_ddpm_ve_discrete.py --workdir=runs/cifar10_ddpm_ve_discrete

As score_sde's configs/ve/cifar10_ddpm.py.
"""

from configs.published import cifar10, ddpm, discrete_ve


def get_config():
    config = discrete_ve(cifar10())
    config.network = ddpm()
    return config
