"""Plucked strings of 24 pitches, 4,096 values at 8 kHz, with VP and a small DiT, conditioned on the pitch.

    python main.py --config=configs/strings.py --workdir=runs/strings
"""

from config_lib.spec import bind, spec
from configs.base import base
from data_lib import Identity, strings
from eval_lib import PyramidFeatures, fid
from models import DiT
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
from sde_lib.solvers import DPMSolverPlusPlus

DATA_STD = 0.145  # root mean square of the sounds


def get_config():
    config = base()
    config.shape = (4096, 1)
    config.data = spec(strings)
    config.transform = spec(Identity)
    config.network = spec(DiT, features=192, depth=4, heads=4, patch=128, num_classes=24, cond_dropout=0.1)
    config.parameterization = spec(EDMPreconditioning, sigma_data=DATA_STD)
    config.time_distribution = spec(LogNormalTime, mean=-2.4, std=1.4)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=DATA_STD), reduce=mean)
    config.optimizer = spec(adam, learning_rate=1e-3, warmup_steps=100, decay_steps=0, b2=0.99)
    config.training.update(batch_size=32, num_steps=4000, ema=0.995, log_every=50, eval_every=500)
    config.training.update(checkpoint_every=500, sample_every=0, keep_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    grid = LogSNRGrid(t_end=1e-5)
    reverse_sde = DPMSolverPlusPlus(order=2, tau=1.0)
    config.sampling.sde = spec(Sampler, solver=reverse_sde, grid=grid, num_steps=40, denoise=as_is)
    config.sampling.use = "sde"
    config.sampling.batch_size = 100
    config.eval.features = spec(PyramidFeatures)
    config.eval.metrics.fid = bind(fid)
    return config
