"""CelebA at 64², NCSNv2 (Song & Ermon 2020, arXiv:2006.09011).

    python main.py --config=configs/celeba_ncsnv2.py --workdir=runs/celeba_ncsnv2

As score_sde's configs/ve/ncsnv2/celeba.py.
"""

from configs.published import annealed, celeba, ncsnv2


def get_config():
    config = annealed(celeba(), sigma_max=90.0, num_scales=500, steps=5, snr=0.128)
    config.network = ncsnv2(64)
    return config
