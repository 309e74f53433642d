"""LSUN church at 256², DDPM.

    python main.py --config=configs/church_ddpm_vp_discrete.py --workdir=runs/church_ddpm_vp_discrete

As score_sde's configs/vp/ddpm/church.py.
"""

from configs.published import ddpm_256, discrete_vp, large


def get_config():
    config = discrete_vp(large("data/lsun/church_outdoor", 256))
    config.network = ddpm_256()
    config.optimizer.learning_rate = 2e-5
    return config
