"""LSUN church at 256², NCSN++ with the continuous VE process.

    python main.py --config=configs/church_ncsnpp_ve.py --workdir=runs/church_ncsnpp_ve

As score_sde's configs/ve/church_ncsnpp_continuous.py.
"""

from configs.published import large, ncsnpp_256, ve


def get_config():
    config = ve(large("data/lsun/church_outdoor", 256), sigma_max=380.0, num_steps=2000, snr=0.075)
    config.network = ncsnpp_256()
    return config
