"""CelebA at 64², NCSN with techniques 1, 2 and 4 of Song & Ermon 2020: noise levels and steps.

    python main.py --config=configs/celeba_ncsn_124.py --workdir=runs/celeba_ncsn_124

As score_sde's configs/ve/ncsn/celeba_124.py.
"""

from configs.published import annealed, celeba, ncsn


def get_config():
    config = annealed(celeba(), sigma_max=90.0, num_scales=500, steps=5, snr=0.128, plain=True)
    config.network = ncsn(500)
    config.training.ema = 0.0
    return config
