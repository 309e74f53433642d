"""CIFAR-10, DDPM's network with the continuous sub-VP process.

    python main.py --config=configs/cifar10_ddpm_subvp.py --workdir=runs/cifar10_ddpm_subvp

As score_sde's configs/subvp/cifar10_ddpm_continuous.py.
"""

from configs.published import cifar10, ddpm, subvp


def get_config():
    config = subvp(cifar10())
    config.network = ddpm()
    return config
