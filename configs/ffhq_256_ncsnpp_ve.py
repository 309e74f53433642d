"""FFHQ at 256², NCSN++ with the continuous VE process.

    python main.py --config=configs/ffhq_256_ncsnpp_ve.py --workdir=runs/ffhq_256_ncsnpp_ve

As score_sde's configs/ve/ffhq_256_ncsnpp_continuous.py.
"""

from configs.published import large, ncsnpp_256, ve


def get_config():
    config = ve(large("data/ffhq-r08.tfrecords", 256), sigma_max=348.0, num_steps=2000, snr=0.075)
    config.network = ncsnpp_256()
    return config
