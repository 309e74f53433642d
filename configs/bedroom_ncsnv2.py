"""LSUN bedroom at 128², NCSNv2 (Song & Ermon 2020, arXiv:2006.09011).

    python main.py --config=configs/bedroom_ncsnv2.py --workdir=runs/bedroom_ncsnv2

As score_sde's configs/ve/ncsnv2/bedroom.py.
"""

from configs.published import annealed, large, ncsnv2


def get_config():
    config = large("data/lsun/bedroom", 128, batch_size=128)
    annealed(config, sigma_max=190.0, num_scales=1086, steps=3, snr=0.095)
    config.network = ncsnv2(128)
    config.training.ema = 0.9999
    return config
