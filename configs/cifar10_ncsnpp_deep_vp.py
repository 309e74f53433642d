"""CIFAR-10, NCSN++ of twice the depth with the continuous VP process.

    python main.py --config=configs/cifar10_ncsnpp_deep_vp.py --workdir=runs/cifar10_ncsnpp_deep_vp

As score_sde's configs/vp/cifar10_ncsnpp_deep_continuous.py.
"""

from configs.published import cifar10, ncsnpp, vp


def get_config():
    config = vp(cifar10())
    config.network = ncsnpp(num_res_blocks=8)
    config.training.num_steps = 950_000
    return config
