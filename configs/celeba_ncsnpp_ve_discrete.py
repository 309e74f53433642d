"""CelebA at 64², NCSN++ with VE on a table of 1,000 noise levels.

    python main.py --config=configs/celeba_ncsnpp_ve_discrete.py --workdir=runs/celeba_ncsnpp_ve_discrete

As score_sde's configs/ve/celeba_ncsnpp.py.
"""

from configs.published import celeba, discrete_ve, ncsnpp


def get_config():
    config = discrete_ve(celeba(), sigma_max=90.0, snr=0.17)
    config.network = ncsnpp()
    return config
