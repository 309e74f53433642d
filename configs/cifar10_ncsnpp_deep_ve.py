"""CIFAR-10, NCSN++ of twice the depth with the continuous VE process.

    python main.py --config=configs/cifar10_ncsnpp_deep_ve.py --workdir=runs/cifar10_ncsnpp_deep_ve

As score_sde's configs/ve/cifar10_ncsnpp_deep_continuous.py.
Published FID 2.20 (Song et al. 2021, table 3), not measured with this code.
"""

from configs.published import cifar10, ncsnpp, published_fid, ve


def get_config():
    config = ve(cifar10())
    config.network = ncsnpp(embedding="fourier", num_res_blocks=8)
    config.training.num_steps = 950_000
    return published_fid(config, 2.20)
