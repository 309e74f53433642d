"""CIFAR-10, DDPM++ with the continuous sub-VP process.

    python main.py --config=configs/cifar10_ddpmpp_subvp.py --workdir=runs/cifar10_ddpmpp_subvp

As score_sde's configs/subvp/cifar10_ddpmpp_continuous.py.
Published FID 2.61 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, ddpmpp, published_fid, subvp


def get_config():
    config = subvp(cifar10())
    config.network = ddpmpp()
    return published_fid(config, 2.61)
