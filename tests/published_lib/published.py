"""The golden checkpoints of tests/golden/checkpoints, and the configs that import them."""

import functools
from pathlib import Path

import numpy as np

from config_lib.spec import bind, spec
from configs.base import base
from models import NCSNpp
from sde_lib import VE, VP, LogSigma, PredictNoise, PredictScore, ScaledTime, SubVP, UniformTime, dsm_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
STEP = 4321

SMALL = dict(nf=4, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(8,))
FIR = dict(fir_taps=(1.0, 3.0, 3.0, 1.0))
SKIP = dict(progressive_input="input_skip", progressive="output_skip")
NETWORKS = {
    "ncsnpp_ve": dict(SMALL, nf=8, ch_mult=(1, 2), embedding="fourier", progressive_input="residual", **FIR),
    "ncsnpp_highres": dict(SMALL, dropout=0.0, embedding="fourier", **SKIP, **FIR),
    "ddpmpp_vp": dict(SMALL, ch_mult=(1, 2), num_res_blocks=2),
    "ncsnpp_subvp": dict(SMALL, progressive_input="residual", **FIR),
}
# Published noise levels are those of data in [0, 1]; here data are in [−1, 1], and levels twice as high.
PROCESSES = {
    "ncsnpp_ve": spec(VE, sigma_min=0.02, sigma_max=100.0),
    "ncsnpp_highres": spec(VE, sigma_min=0.02, sigma_max=696.0),
    "ddpmpp_vp": spec(VP),
    "ncsnpp_subvp": spec(SubVP),
}


def is_ve(name):
    return name in ("ncsnpp_ve", "ncsnpp_highres")


def config_of(name):
    config = base()
    config.shape = (16, 16, 3)
    config.sde = PROCESSES[name]
    config.network = spec(NCSNpp, **NETWORKS[name])
    config.loss, config.time_distribution = bind(dsm_loss), spec(UniformTime)
    noise = spec(PredictNoise, c_noise=ScaledTime(scale=999.0))
    config.parameterization = spec(PredictScore, c_noise=LogSigma(unit=2.0)) if is_ve(name) else noise
    config.training.ema = 0.999
    return config


@functools.cache
def golden(name):
    with np.load(GOLDEN / name / "golden.npz") as file:
        return dict(file)


def to_ours(name, x):
    """Published data in our model space."""
    return 2 * x - 1 if is_ve(name) else x


def scale(name):
    """By how much ours is larger."""
    return 2.0 if is_ve(name) else 1.0
