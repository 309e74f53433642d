"""CIFAR-10, DDPM++ with the continuous VP process.

    python main.py --config=configs/cifar10_ddpmpp_vp.py --workdir=runs/cifar10_ddpmpp_vp

As score_sde's configs/vp/cifar10_ddpmpp_continuous.py.
Published FID 2.55 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, ddpmpp, published_fid, vp


def get_config():
    config = vp(cifar10())
    config.network = ddpmpp()
    return published_fid(config, 2.55)
