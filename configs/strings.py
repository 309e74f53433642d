"""Plucked strings of 24 pitches, 4,096 values at 8 kHz, with VP and a small DiT, conditioned on the pitch.

python main.py --config=configs/strings.py --workdir=runs/strings
"""

from config_lib.spec import bind, spec
from configs.base import base
from data_lib import Waveform, strings
from eval_lib import LogMelFeatures, feature_frechet, pitch_report
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

RATE, DATA_STD = 8000, 0.145  # values per second; root mean square of the sounds


def get_config():
    config = base()
    config.shape = (4096, 1)
    config.data = spec(strings, count=20_000, in_memory=True)
    config.transform = spec(Waveform, rate=RATE, std=DATA_STD)
    # 16 patches of 32 ms: a transformer on few long patches costs a tenth of a U-Net on single values.
    config.network = spec(DiT, features=256, depth=2, heads=4, patch=256, num_classes=24, cond_dropout=0.1)
    config.parameterization = spec(EDMPreconditioning, sigma_data=1.0)
    config.time_distribution = spec(LogNormalTime, mean=-1.0, std=1.4)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=1.0), reduce=mean)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=100, decay_steps=0, b2=0.99)
    config.training.update(batch_size=32, num_steps=6000, ema=0.997, log_every=100, eval_every=1000)
    config.training.update(checkpoint_every=1000, sample_every=0, keep_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    reverse_sde, grid = DPMSolverPlusPlus(order=2, tau=1.0), LogSNRGrid(t_end=1e-4)
    config.sampling.sde = spec(Sampler, solver=reverse_sde, grid=grid, num_steps=40, denoise=as_is)
    config.sampling.use = "sde"
    config.sampling.batch_size = 100
    config.eval.features = spec(LogMelFeatures, rate=RATE)
    config.eval.metrics.frechet = bind(feature_frechet)
    config.eval.report = bind(pitch_report, rate=RATE, lowest=110.0, classes=24)
    return config
