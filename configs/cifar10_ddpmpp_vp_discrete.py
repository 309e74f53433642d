"""CIFAR-10, DDPM++ with DDPM's 1,000 noise levels.

    python main.py --config=configs/cifar10_ddpmpp_vp_discrete.py --workdir=runs/cifar10_ddpmpp_vp_discrete

As score_sde's configs/vp/cifar10_ddpmpp.py.
Published FID 2.78 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, ddpmpp, discrete_vp, published_fid


def get_config():
    config = discrete_vp(cifar10())
    config.network = ddpmpp()
    return published_fid(config, 2.78)
