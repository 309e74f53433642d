"""FFHQ at 1024², NCSN++ with the continuous VE process.

    python main.py --config=configs/ffhq_1024_ncsnpp_ve.py --workdir=runs/ffhq_1024_ncsnpp_ve

As score_sde's configs/ve/ffhq_ncsnpp_continuous.py.
"""

from configs.published import large, ncsnpp_1024, ve
from configs.spec import bind
from sde_lib import mean


def get_config():
    config = large("data/ffhq-r10.tfrecords", 1024, batch_size=8)
    ve(config, sigma_max=1348.0, num_steps=2000, snr=0.15)
    config.network = ncsnpp_1024()
    config.training.ema = 0.9999
    config.loss.reduce = bind(mean)
    return config
