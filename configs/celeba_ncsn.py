"""CelebA at 64², NCSN (Song & Ermon 2019, arXiv:1907.05600).

    python main.py --config=configs/celeba_ncsn.py --workdir=runs/celeba_ncsn

As score_sde's configs/ve/ncsn/celeba.py.
"""

from configs.published import annealed, celeba, ncsn


def get_config():
    config = annealed(celeba(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True)
    config.network = ncsn(10)
    config.training.ema = 0.0
    return config
