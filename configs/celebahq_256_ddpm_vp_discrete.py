"""CelebA-HQ at 256², DDPM.

    python main.py --config=configs/celebahq_256_ddpm_vp_discrete.py --workdir=runs/celebahq_256_ddpm_vp_discrete

As score_sde's configs/vp/ddpm/celebahq.py.
"""

from configs.published import ddpm_256, discrete_vp, large


def get_config():
    config = discrete_vp(large("data/celebahq-r08.tfrecords", 256))
    config.network = ddpm_256()
    config.optimizer.learning_rate = 2e-5
    return config
