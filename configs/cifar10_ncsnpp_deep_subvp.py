"""CIFAR-10, NCSN++ of twice the depth with the continuous sub-VP process.

    python main.py --config=configs/cifar10_ncsnpp_deep_subvp.py --workdir=runs/cifar10_ncsnpp_deep_subvp

As score_sde's configs/subvp/cifar10_ncsnpp_deep_continuous.py.
"""

from configs.published import cifar10, ncsnpp, subvp


def get_config():
    config = subvp(cifar10())
    config.network = ncsnpp(num_res_blocks=8)
    config.training.num_steps = 950_000
    return config
