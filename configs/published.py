"""The building blocks of the published experiments: data, networks, and processes with their losses and samplers.

An experiment has one of each, and a few changes:

    config = cifar10()                        shape, data, batch, steps
    config.network = ncsnpp(...)              or ddpmpp, ddpm: published sets of options
    config.network = ncsn(...), ncsnv2(...)   with annealed(config, ...)
    ve(config), vp(config), subvp(config)     process, parameterization, loss, EMA, the published sampler
    discrete_ve(config), discrete_vp(config)  the same for the objective on a table of noise levels

The values are those of the configurations published with Song et al. 2021 (arXiv:2011.13456, score_sde). The model
space is [−1, 1] throughout. Theirs is [0, 1] for VE, so all noise levels here are twice theirs; with `unit` the noise
labels are the same numbers. Their VP losses are means over pixels, their VE losses half sums. This matters, since
gradients are clipped. `config.sampling.use` is "published", the sampler of their experiment; docs/samplers.md has
faster ones.
"""

from ml_collections import ConfigDict

import sde_lib
from config_lib.spec import bind, spec
from configs.base import base
from data_lib import from_folder, from_tfrecord, tfds_dataset
from eval_lib import Expected, InceptionFeatures, classifier_score, fid, fid_infinity, fidelity, kid
from models import NCSN, NCSNpp, NCSNv2, ncsnv2_levels
from sde_lib import (
    VE,
    VP,
    GridTime,
    LogSigma,
    PlainScore,
    PredictNoise,
    PredictScore,
    Sampler,
    ScaledTime,
    SubVP,
    UniformGrid,
    UniformTime,
    dsm_loss,
    mean,
    tweedie,
)
from sde_lib.solvers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    NoPredictor,
    PredictorCorrector,
    ReverseDiffusion,
    Solver,
)

FIR = (1.0, 3.0, 3.0, 1.0)
NO_CLIP = 1e12  # of the gradient's norm
UNIT = 2.0  # noise level for data in [−1, 1], as a multiple of that for data in [0, 1]


# Data


def cifar10() -> ConfigDict:
    """CIFAR-10 as prepared by tensorflow-datasets, with FID, KID, Inception score, precision and recall."""
    config = base()
    config.shape = (32, 32, 3)
    config.data = spec(tfds_dataset, name="cifar10")
    config.training.flip = True
    config.eval.features = spec(InceptionFeatures)
    metrics = dict(fid=fid, fid_infinity=fid_infinity, kid=kid, score=classifier_score, fidelity=fidelity)
    config.eval.metrics.update({name: bind(metric) for name, metric in metrics.items()})
    config.eval.reproduce.num_samples = 50_000
    return config


def published_fid(config: ConfigDict, value: float) -> ConfigDict:
    """Makes --mode=reproduce expect the FID of their table 3, that of their best checkpoint, within 0.2."""
    source = "Song et al. 2021, table 3"
    config.eval.expected.fid = spec(Expected, figure="FID", value=value, tolerance=0.2, source=source)
    return config


def images(path: str, size: int) -> ConfigDict:
    """A folder of images, cropped to squares and resized to `size`."""
    config = cifar10()
    config.shape = (size, size, 3)
    config.data = spec(from_folder, path=path, shape=config.shape)
    config.sampling.batch_size = 64 if size < 256 else 16
    return config


def celeba() -> ConfigDict:
    """CelebA at 64², from a folder of aligned faces. The published experiment first crops them to the central 140²."""
    return images("data/celeba", 64)


def large(path: str, size: int, batch_size: int = 64) -> ConfigDict:
    """LSUN (a folder), CelebA-HQ or FFHQ (TFRecords) at high resolution: more steps with smaller batches."""
    config = images(path, size)
    if path.endswith(".tfrecords"):
        config.data = spec(from_tfrecord, path=path)
    config.training.update(batch_size=batch_size, num_steps=2_400_000, checkpoint_every=5_000)
    return config


# Networks


def ncsnpp(**options) -> ConfigDict:
    """NCSN++ (Song et al. 2021, appendix H) with the options for CIFAR-10, changed by `options`."""
    return spec(NCSNpp, **{"fir_taps": FIR, "progressive_input": "residual", **options})


def ncsnpp_256(**options) -> ConfigDict:
    """NCSN++ for images of 256² and more, with input and output pyramids."""
    skips = dict(progressive_input="input_skip", progressive="output_skip", embedding="fourier", dropout=0.0)
    return ncsnpp(**{**skips, "ch_mult": (1, 1, 2, 2, 2, 2, 2), "num_res_blocks": 2, **options})


def ncsnpp_1024() -> ConfigDict:
    """NCSN++ for images of 1024²."""
    return ncsnpp_256(nf=16, ch_mult=(1, 2, 4, 8, 16, 32, 32, 32), num_res_blocks=1)


def ddpmpp(**options) -> ConfigDict:
    """DDPM++: NCSN++ without FIR filters and pyramids."""
    return spec(NCSNpp, **options)


def ddpm(**options) -> ConfigDict:
    """DDPM as in score_sde: that of Ho et al. 2020 with two attention blocks fewer."""
    return spec(NCSNpp, block="ddpm", fir_taps=(), skip_rescale=False, min_group=1, **{"num_res_blocks": 2, **options})


def ddpm_256() -> ConfigDict:
    """DDPM for images of 256²."""
    return ddpm(ch_mult=(1, 1, 2, 2, 4, 4), dropout=0.0)


def ncsn(num_levels: int) -> ConfigDict:
    """NCSN with `num_levels` noise levels (Song & Ermon 2019, appendix A)."""
    return spec(NCSN, num_levels=num_levels)


def ncsnv2(size: int) -> ConfigDict:
    """NCSNv2 for images of size² pixels (Song & Ermon 2020, appendix B)."""
    return spec(NCSNv2, **ncsnv2_levels(size))


# Processes


def ve(config: ConfigDict, sigma_max: float = 50.0, num_steps: int = 1000, snr: float = 0.16) -> ConfigDict:
    """VE with noise levels from 0.01 to `sigma_max` for data in [0, 1]; sampled by reverse diffusion and Langevin."""
    config.sde = spec(VE, sigma_min=0.01 * UNIT, sigma_max=sigma_max * UNIT)
    config.parameterization = spec(PredictScore, c_noise=LogSigma(unit=UNIT))
    config.loss, config.time_distribution = bind(dsm_loss), spec(UniformTime)
    config.training.ema = 0.999
    return _sampled_by(config, solver=_langevin(snr), num_steps=num_steps)


def discrete_ve(config: ConfigDict, sigma_max: float = 50.0, num_scales: int = 1000, snr: float = 0.16) -> ConfigDict:
    """VE on a table of `num_scales` noise levels; the noise label is the index of the level, 0 for the largest."""
    last = num_scales - 1
    config.sde = spec(sde_lib.discrete_ve, num_scales=num_scales, sigma_min=0.01 * UNIT, sigma_max=sigma_max * UNIT)
    config.parameterization = spec(PredictScore, c_noise=ScaledTime(scale=-float(last), offset=float(last)))
    config.loss, config.time_distribution = bind(dsm_loss), spec(GridTime, num_steps=num_scales)
    config.training.ema = 0.999
    return _sampled_by(config, solver=_langevin(snr), num_steps=last, denoise=tweedie)


def vp(config: ConfigDict) -> ConfigDict:
    """VP with noise prediction and the noise label 999 t; sampled by 1,000 steps of Euler–Maruyama down to t = 10⁻³."""
    config.sde = spec(VP)
    config.parameterization = spec(PredictNoise, c_noise=ScaledTime(scale=999.0))
    config.loss, config.time_distribution = bind(dsm_loss, reduce=mean), spec(UniformTime)
    return _sampled_by(config, solver=EulerMaruyama(), grid=UniformGrid(t_end=1e-3), num_steps=1000)


def subvp(config: ConfigDict) -> ConfigDict:
    """Sub-VP; otherwise as `vp`."""
    vp(config).sde = spec(SubVP)
    return config


def discrete_vp(config: ConfigDict, predictor: Solver = Ancestral(large_variance=True)) -> ConfigDict:
    """VP on DDPM's table of 1,000 noise levels; the noise label is the index of the level, 0 for the smallest."""
    config.sde = spec(sde_lib.discrete_vp, num_steps=1000)
    config.parameterization = spec(PredictNoise, c_noise=ScaledTime(scale=1000.0, offset=-1.0))
    config.loss, config.time_distribution = bind(dsm_loss, reduce=mean), spec(GridTime, num_steps=1000)
    return _sampled_by(config, solver=predictor, num_steps=999, denoise=tweedie)


def annealed(
    config: ConfigDict, sigma_max: float, num_scales: int, steps: int, snr: float, plain: bool = False
) -> ConfigDict:
    """NCSN and NCSNv2: discrete VE, sampled by `steps` steps of annealed Langevin dynamics at each noise level.

    Adam has neither warm-up nor gradient clipping. With `plain` the network's output is the score (NCSN), else σ times
    the score (NCSNv2).
    """
    discrete_ve(config, sigma_max, num_scales)
    if plain:
        label = ScaledTime(scale=1.0 - num_scales, offset=num_scales - 1.0)
        config.parameterization = spec(PlainScore, c_noise=label)
    config.optimizer.update(learning_rate=1e-3 if plain else 1e-4, warmup_steps=0, clip_norm=NO_CLIP)
    moves = AnnealedLangevin(snr=snr, steps=steps)
    solver = PredictorCorrector(predictor=NoPredictor(), corrector=moves, corrector_first=False)
    return _sampled_by(config, solver=solver, num_steps=num_scales - 1)


def _langevin(snr: float) -> PredictorCorrector:
    return PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(snr=snr, norm="batch"))


def _sampled_by(config: ConfigDict, **sampler) -> ConfigDict:
    config.sampling.use = "published"
    config.sampling.published = spec(Sampler, **{"grid": UniformGrid(), **sampler})
    return config
