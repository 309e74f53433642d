"""What the files of ADM and improved DDPM do not state, for the published ones: heads, attention, noise schedule.

    python main.py --mode=import --config=configs/adm.py:imagenet64_cond --checkpoint=64x64_diffusion.pt --workdir=RUN

The widths, levels and classes are the file's. Another file of these projects takes the entries that its own flags had:

    --num_heads 4               --config.network.num_heads=4
    --num_head_channels 64      --config.network.head_features=64 --config.network.num_heads=0
    --use_new_attention_order   --config.network.attention_order=by_kind    (without it: by_head)
    --noise_schedule cosine     --config.sde.schedule=cosine                (or linear)
    --diffusion_steps N         --config.sde.num_steps=N, and the label: with --rescale_timesteps
                                --config.parameterization.c_noise.offset=-1000/N; without, .scale=N
    --image_size 64             --config.shape="(64,64,3)", if the file's name has no 64x64

Dhariwal & Nichol 2021, arXiv:2105.05233, and the README of guided-diffusion; Nichol & Dhariwal 2021, arXiv:2102.09672.
"""

from ml_collections import ConfigDict

from config_lib.spec import ConfigError, bind, spec
from configs.base import base
from models import ADM
from sde_lib import GridTime, PredictNoise, Sampler, ScaledTime, UniformGrid, discrete_vp, dsm_loss, mean, tweedie
from sde_lib.solvers import LearnedVarianceAncestral

ADM_FLAGS = dict(head_features=64, attention_order="by_head", schedule="linear", dropout=0.0)
IMPROVED_FLAGS = dict(num_heads=4, attention_order="by_head", schedule="cosine", num_steps=4000, size=64)
PRESETS = {
    "imagenet64_cond": dict(size=64, attention_order="by_kind", schedule="cosine", dropout=0.1),
    "imagenet128_cond": dict(size=128, num_heads=4),
    "imagenet256_cond": dict(size=256),
    "imagenet256_uncond": dict(size=256),
    "imagenet512_cond": dict(size=512),
    "lsun_bedroom": dict(size=256, dropout=0.1),
    "lsun_cat": dict(size=256, dropout=0.1),
    "lsun_horse": dict(size=256, dropout=0.1),
    "improved_cifar10": dict(IMPROVED_FLAGS, size=32, dropout=0.3),
    "improved_imagenet64": dict(IMPROVED_FLAGS, dropout=0.0),
}


def get_config(name: str = "") -> ConfigDict:
    """The config of a published file by name. ConfigError, with all names, for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}: expected configs/adm.py:NAME with one of {', '.join(PRESETS)}")
    return adm(**{**ADM_FLAGS, **PRESETS[name]})


def adm(size: int, schedule: str, num_steps: int = 1000, **network) -> ConfigDict:
    """Images of size², noise prediction with a learned variance, on a table of `num_steps` noise levels.

    Timesteps are scaled to 1,000, as improved DDPM does for its 4,000."""
    config = base()
    config.shape = (size, size, 3)
    config.sde = spec(discrete_vp, num_steps=num_steps, schedule=schedule)
    config.network = spec(ADM, learned_variance=True, **network)
    label = ScaledTime(scale=1000.0, offset=-1000.0 / num_steps)
    config.parameterization = spec(PredictNoise, c_noise=label)
    config.loss, config.time_distribution = bind(dsm_loss, reduce=mean), spec(GridTime, num_steps=num_steps)
    solver, steps = LearnedVarianceAncestral(), num_steps - 1
    config.sampling.published = spec(Sampler, solver=solver, grid=UniformGrid(), num_steps=steps, denoise=tweedie)
    return config
