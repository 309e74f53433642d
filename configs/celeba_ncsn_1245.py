"""CelebA at 64², NCSN with techniques 1, 2, 4 and 5 of Song & Ermon 2020: noise levels, steps and averaging.

    python main.py --config=configs/celeba_ncsn_1245.py --workdir=runs/celeba_ncsn_1245

As score_sde's configs/ve/ncsn/celeba_1245.py.
"""

from configs.published import annealed, celeba, ncsn


def get_config():
    config = annealed(celeba(), sigma_max=90.0, num_scales=500, steps=5, snr=0.128, plain=True)
    config.network = ncsn(500)
    return config
