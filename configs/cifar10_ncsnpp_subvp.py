"""CIFAR-10, NCSN++ with the continuous sub-VP process.

    python main.py --config=configs/cifar10_ncsnpp_subvp.py --workdir=runs/cifar10_ncsnpp_subvp

As score_sde's configs/subvp/cifar10_ncsnpp_continuous.py.
"""

from configs.published import cifar10, ncsnpp, subvp


def get_config():
    config = subvp(cifar10())
    config.network = ncsnpp()
    return config
