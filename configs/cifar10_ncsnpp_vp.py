"""CIFAR-10, NCSN++ with the continuous VP process.

    python main.py --config=configs/cifar10_ncsnpp_vp.py --workdir=runs/cifar10_ncsnpp_vp

As score_sde's configs/vp/cifar10_ncsnpp_continuous.py.
"""

from configs.published import cifar10, ncsnpp, vp


def get_config():
    config = vp(cifar10())
    config.network = ncsnpp()
    return config
