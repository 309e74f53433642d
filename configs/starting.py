"""What the starting points photos, signals, volume and table share: EDM's process, preconditioning and noise levels.

With --data, `sde_lib.suggest` measures the training examples in model space, and `noise_choices` sets

    parameterization.sigma_data   σ_data, the standard deviation over all coordinates
    sde.t_max                     sigma_max, the largest distance between two examples, where σ(t) = t
    sde.t_min                     sigma_min of `suggest`, but at least σ_data/1000
    time_distribution             log σ ~ N(log(σ_data/0.5) − 1.2, 1.2²)                                          (1)

(1) is EDM's distribution, which is for σ_data = 0.5, on other scales: c x with noise c σ is the problem of x with noise
σ. In a short run few draws reach the levels that decide between bright and dark images: docs/starting.md has the
measurement, also of a wider distribution. Each value is printed with its reason, unless a flag sets it
(`configs.own_data.choose`).
T. Karras et al. 2022, arXiv:2206.00364, table 1.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from config_lib.names import name_of
from config_lib.spec import bind, build, spec
from configs.base import base
from configs.points import compare_points
from models import NCSNpp
from sde_lib import (
    EDM,
    VE,
    EDMGrid,
    EDMPreconditioning,
    EDMWeight,
    LogNormalTime,
    Sampler,
    adam,
    as_is,
    dsm_loss,
    mean,
)
from sde_lib import suggest as suggest_parameters
from sde_lib.solvers import Heun

EDM_SIGMA_DATA, EDM_MEAN, EDM_STD = 0.5, -1.2, 1.2  # of (1)
LOWEST = 1 / 1000  # of σ_data: lower noise levels would only take steps from the sampler

NOISE_LEVELS = {name_of(EDM): ("t_max", "t_min"), name_of(VE): ("sigma_max", "sigma_min")}


class Choice(NamedTuple):
    """A value of the config with its reason; None means the value that the config has. `key` lacks "config."."""

    key: str
    reason: str
    value: float | None = None


Choices = Callable[[ConfigDict, np.ndarray, dict], list[Choice]]
"""(config, training examples x [n, *shape] in model space, {"examples": number, "classes": number}) → choices."""


def starting_point(
    shape: tuple[int, ...], sigma_data: float, learning_rate: float, num_steps: int, choices: Choices
) -> ConfigDict:
    """A config for events of this shape, without data and network; `sigma_data` is that before --data is read."""
    config = base()
    config.shape = shape
    config.from_data = bind(choices)
    config.sde = spec(EDM)
    config.parameterization = spec(EDMPreconditioning, sigma_data=sigma_data)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=sigma_data), reduce=mean)
    config.loss.weight.sigma_data = config.parameterization.get_oneway_ref("sigma_data")
    config.time_distribution = spec(LogNormalTime, mean=noise_mean(sigma_data), std=EDM_STD)
    config.optimizer = spec(adam, learning_rate=learning_rate, warmup_steps=200, decay_steps=0, b2=0.99)
    config.training.update(num_steps=num_steps, ema=0.999, log_every=100, eval_every=1000, keep_every=0)
    config.training.update(checkpoint_every=1000, sample_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    config.sampling.ode = spec(Sampler, solver=Heun(), grid=EDMGrid(), num_steps=18, denoise=as_is)
    config.sampling.use = "ode"
    compare_points(config)
    return config


def noise_mean(sigma_data: float) -> float:
    """The mean of log σ in (1), to three digits.

    >>> noise_mean(0.5), noise_mean(1.0)
    (-1.2, -0.507)
    """
    return three_digits(math.log(sigma_data / EDM_SIGMA_DATA) + EDM_MEAN)


def noise_choices(config: ConfigDict, x: np.ndarray) -> list[Choice]:
    """The values at the head of this module, to three digits. ValueError for examples that are all alike.

    For VE these are sigma_min and sigma_max. Another process, parameterization or distribution of t stays as it is.
    """
    found = suggest_parameters(x)
    sigma_data = three_digits(found.sigma_data)
    detail = "nearest neighbors' distance/sqrt(d)" if found.step is None else "step between values"
    lowest, why = max(
        (found.sigma_min, f"the least of sigma_data/100 and 1/4 of the {detail}"),
        (LOWEST * found.sigma_data, "sigma_data/1000"),
    )
    choices = []
    if "sigma_data" in config.parameterization:
        choices.append(Choice("parameterization.sigma_data", "standard deviation over all coordinates", sigma_data))
    if names := NOISE_LEVELS.get(config.sde["call"]):
        most = "sigma_max, the largest distance between two examples"
        choices.append(Choice(f"sde.{names[0]}", most, three_digits(found.sigma_max)))
        choices.append(Choice(f"sde.{names[1]}", f"sigma_min, {why}", three_digits(lowest)))
    if config.time_distribution.get("call") == name_of(LogNormalTime):
        about = f"of log sigma in training; EDM's -1.2 for sigma_data 0.5, plus log({sigma_data:g}/0.5)"
        choices.append(Choice("time_distribution.mean", about, noise_mean(sigma_data)))
        choices.append(Choice("time_distribution.std", "of log sigma in training, as in EDM"))
    return choices


def three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def training_choices(config: ConfigDict, examples: int) -> list[Choice]:
    """Number of passes over the data, and half-life of the average of the parameters."""
    training = config.training
    passes = training.num_steps * training.batch_size / examples
    half_life = math.log(0.5) / math.log(training.ema) if training.ema else 0.0
    return [
        Choice("training.num_steps", f"of {training.batch_size} examples, {passes:,.0f} passes over {examples:,}"),
        Choice("training.ema", f"samples use an average of the parameters, of half-life {half_life:,.0f} steps"),
    ]


def levels_of(shape: tuple[int, ...], coarsest: int, attention: int) -> tuple[int, tuple[int, ...]]:
    """Levels of a U-Net for [*space, C], and those with attention.

    Each level halves all axes, while the longest has at least `coarsest` positions. Attention is on levels of at most
    `attention` positions.

    >>> levels_of((256, 1), coarsest=32, attention=64)
    (4, (2, 3))
    """
    levels = 1 + max(0, math.floor(math.log2(max(shape[:-1]) / coarsest)))
    sizes = [math.prod(-(-n // 2**k) for n in shape[:-1]) for k in range(levels)]
    return levels, tuple(k for k, size in enumerate(sizes) if size <= attention)


def array_network(
    shape: tuple[int, ...],
    nf: int,
    coarsest: int,
    attention: int,
    num_res_blocks: int = 1,
    dropout: float = 0.0,
    num_classes: int = 0,
    cond_dim: int = 0,
    cond_channels: int = 0,
    context_dim: int = 0,
    cond_dropout: float = 0.0,
    cond_dropout_each: float = 0.0,
    cond_null: str = "zero",
    dtype: str | None = None,
    remat: bool = False,
) -> NCSNpp:
    """DDPM++ for signals and volumes [*space, C], with the levels of `levels_of`.

    Channels are nf at full resolution and 2 nf below.
    """
    options = dict(locals())
    for name in ("shape", "coarsest", "attention"):
        del options[name]
    return unet(*levels_of(shape, coarsest, attention), options)


def unet(levels: int, attn_levels: tuple[int, ...], options: Mapping[str, Any]) -> NCSNpp:
    """DDPM++ with these levels and NCSNpp's other options: channels nf at full resolution and 2 nf below."""
    return NCSNpp(ch_mult=(1, *(2,) * (levels - 1)), attn_resolutions=(), attn_levels=attn_levels, **options)


def array_choices(config: ConfigDict, x: np.ndarray, about: dict) -> list[Choice]:
    """For signals and volumes: noise levels, network, training and evaluation."""
    return [
        Choice("shape", "that of the data; each channel is standardized"),
        *noise_choices(config, x),
        *unet_choice(config),
        *label_choice(about["classes"]),
        *training_choices(config, about["examples"]),
        Choice("eval.features.call", "means and detail of each size, in parts of the event, without a network"),
    ]


def unet_choice(config: ConfigDict) -> list[Choice]:
    """The channels and the attention of the config's NCSNpp, by level; nothing for another network."""
    network, patch = build(config.network, "config.network"), config.network.get("patch", 1)
    network = getattr(network, "network", network)
    if not isinstance(network, NCSNpp):
        return []
    shape = tuple(config.shape)[:-1]
    sizes = ["x".join(str(-(-n // (patch * 2**k))) for n in shape) for k in range(len(network.ch_mult))]
    levels = ", ".join(f"{network.nf * mult} at {size}" for mult, size in zip(network.ch_mult, sizes, strict=True))
    attention = ", ".join(sizes[k] for k in network.attn_levels) or sizes[-1]  # the last level always has it
    patches = f" (patches of {patch}x{patch} pixels)" if patch > 1 else ""
    return [Choice("network", f"by the shape: channels {levels}{patches}; attention at {attention}")]


def label_choice(classes: int) -> list[Choice]:
    """What to set for class-conditional samples and classifier-free guidance, if the data have classes."""
    if not classes:
        return []
    how = f"--config.network.num_classes={classes} --config.network.cond_dropout=0.1"
    return [
        Choice(
            "network.num_classes",
            f"the labels of {classes} classes are not used; conditioned on them, with classifier-free guidance: {how}",
        )
    ]
