"""CelebA-HQ at 1024², NCSN++ with the continuous VE process.

    python main.py --config=configs/celebahq_1024_ncsnpp_ve.py --workdir=runs/celebahq_1024_ncsnpp_ve

As score_sde's configs/ve/celebahq_ncsnpp_continuous.py.
"""

from configs.published import large, ncsnpp_1024, ve


def get_config():
    config = large("data/celebahq-r10.tfrecords", 1024, batch_size=8)
    ve(config, sigma_max=1348.0, num_steps=2000, snr=0.15)
    config.network = ncsnpp_1024()
    config.training.ema = 0.9999
    return config
