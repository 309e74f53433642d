"""CIFAR-10, DDPM++ of twice the depth with the continuous sub-VP process.

    python main.py --config=configs/cifar10_ddpmpp_deep_subvp.py --workdir=runs/cifar10_ddpmpp_deep_subvp

As score_sde's configs/subvp/cifar10_ddpmpp_deep_continuous.py.
Published FID 2.41 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, ddpmpp, published_fid, subvp


def get_config():
    config = subvp(cifar10())
    config.network = ddpmpp(num_res_blocks=8)
    config.training.num_steps = 950_000
    return published_fid(config, 2.41)
