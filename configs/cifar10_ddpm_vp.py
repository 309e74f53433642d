"""CIFAR-10, DDPM's network with the continuous VP process.

    python main.py --config=configs/cifar10_ddpm_vp.py --workdir=runs/cifar10_ddpm_vp

As score_sde's configs/vp/ddpm/cifar10_continuous.py.
"""

from configs.published import cifar10, ddpm, vp


def get_config():
    config = vp(cifar10())
    config.network = ddpm()
    return config
