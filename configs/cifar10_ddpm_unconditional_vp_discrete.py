"""CIFAR-10, DDPM whose network is not told the noise level (technique 3 of Song & Ermon 2020).

    python main.py --config=configs/cifar10_ddpm_unconditional_vp_discrete.py --workdir=runs/cifar10_ddpm_unconditional

As score_sde's configs/vp/ddpm/cifar10_unconditional.py.
"""

from configs.published import cifar10, ddpm, discrete_vp


def get_config():
    config = discrete_vp(cifar10())
    config.network = ddpm(noise_conditional=False)
    return config
