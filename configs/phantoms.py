"""Ellipse phantoms, 32×32, with VP and a small DDPM++ on patches: a prior for tomography that trains in minutes.

    python main.py --config=configs/phantoms.py --workdir=runs/phantoms
    python main.py --mode=restore --workdir=runs/phantoms --task=ct:12 --truth=test:8 --noise_std=0.2 --num_samples=8

docs/medical.md has reconstructions, their figures and their limits. For other sizes set both --config.data.size=64 and
--config.shape=64,64,1.
"""

from config_lib.spec import bind, spec
from configs.base import base
from configs.photos import photo_network
from data_lib import Scale, phantoms
from eval_lib import PyramidFeatures
from sde_lib import (
    EDMPreconditioning,
    EDMWeight,
    LogNormalTime,
    LogSNRGrid,
    Sampler,
    adam,
    as_is,
    dsm_loss,
    mean,
)
from sde_lib.solvers import Ancestral, DPMSolverPlusPlus

DATA_STD = 0.8  # root mean square of the pixels in [−1, 1]


def get_config():
    config = base()
    config.shape = (32, 32, 1)
    config.data = spec(phantoms, size=32)
    config.transform = spec(Scale, low=0.0, high=1.0)
    config.network = spec(photo_network, shape=(32, 32, 1), nf=32, num_res_blocks=1, dropout=0.0, patch=2)
    config.network.shape = config.get_oneway_ref("shape")
    config.parameterization = spec(EDMPreconditioning, sigma_data=DATA_STD)
    config.time_distribution = spec(LogNormalTime, mean=-1.0, std=1.3)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=DATA_STD), reduce=mean)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=100, decay_steps=0, b2=0.99)
    config.training.update(batch_size=16, num_steps=3000, ema=0.997, log_every=100, eval_every=500)
    config.training.update(checkpoint_every=500, sample_every=0, keep_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    grid = LogSNRGrid(t_end=1e-3)
    reverse_sde = DPMSolverPlusPlus(order=2, tau=1.0)  # noise at every step corrects the network's errors
    config.sampling.sde = spec(Sampler, solver=reverse_sde, grid=grid, num_steps=40, denoise=as_is)
    config.sampling.ancestral = spec(Sampler, solver=Ancestral(), grid=grid, num_steps=100, denoise=as_is)
    config.sampling.use = "sde"
    config.eval.features = spec(PyramidFeatures)
    return config
