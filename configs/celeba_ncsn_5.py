"""CelebA at 64², NCSN with technique 5 of Song & Ermon 2020: averaging.

    python main.py --config=configs/celeba_ncsn_5.py --workdir=runs/celeba_ncsn_5

As score_sde's configs/ve/ncsn/celeba_5.py.
"""

from configs.published import annealed, celeba, ncsn


def get_config():
    config = annealed(celeba(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True)
    config.network = ncsn(10)
    return config
