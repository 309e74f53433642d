"""Plucked strings of 24 pitches, 4,096 values at 8 kHz, with VP and a small network, conditioned on the pitch.

python main.py --config=configs/strings.py --workdir=runs/strings
"""

from config_lib.spec import bind, spec
from configs.base import base
from data_lib import Waveform, strings
from eval_lib import PyramidFeatures, fid
from models import MLP
from sde_lib import (
    EDMWeight,
    LogNormalTime,
    LogSigma,
    LogSNRGrid,
    PredictX0,
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
    config.data = spec(strings, count=20_000, in_memory=True)
    config.transform = spec(Waveform, rate=8000, std=DATA_STD)
    config.network = spec(MLP, features=256, num_layers=4, num_classes=24, cond_dropout=0.1)
    config.parameterization = spec(PredictX0, c_noise=LogSigma(scale=0.25))
    config.time_distribution = spec(LogNormalTime, mean=-1.0, std=1.4)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=1.0), reduce=mean)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=100, decay_steps=0, b2=0.99)
    config.training.update(batch_size=128, num_steps=10_000, ema=0.995, log_every=100, eval_every=1000)
    config.training.update(checkpoint_every=1000, sample_every=0, keep_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    grid = LogSNRGrid(t_end=1e-3)
    reverse_sde = DPMSolverPlusPlus(order=2, tau=1.0)
    config.sampling.sde = spec(Sampler, solver=reverse_sde, grid=grid, num_steps=40, denoise=as_is)
    config.sampling.use = "sde"
    config.sampling.batch_size = 100
    config.eval.features = spec(PyramidFeatures)
    config.eval.metrics.fid = bind(fid)
    return config
