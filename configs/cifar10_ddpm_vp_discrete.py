"""CIFAR-10, DDPM (Ho et al. 2020, arXiv:2006.11239).

    python main.py --config=configs/cifar10_ddpm_vp_discrete.py --workdir=runs/cifar10_ddpm_vp_discrete

As score_sde's configs/vp/ddpm/cifar10.py.
Published FID 3.24 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, ddpm, discrete_vp, published_fid


def get_config():
    config = discrete_vp(cifar10())
    config.network = ddpm()
    return published_fid(config, 3.24)
