"""Plucked strings of 24 pitches, 4,096 values at 8 kHz, with VP, conditioned on the pitch: trains in minutes.

    python main.py --config=configs/strings.py --workdir=runs/strings
    python main.py --mode=sample --workdir=runs/strings --num_samples=48
    python main.py --mode=eval --workdir=runs/strings --num_samples=480

The network is a small perceptron on top of the Wiener filter of each pitch. Of the training sounds of a pitch, U has
the first principal components and Λ their variances; s² is the variance of the rest, which is noise. With σ the noise
level of y = x_t/α,

    D(y) = U Λ/(Λ + σ²) Uᵀ y + s²/(s² + σ²) (1 − U Uᵀ) y + U √(Λ σ²/(Λ + σ²)) F(Uᵀ y/√(Λ + σ²), log σ, pitch)    (1)

The first two terms are E[x_0 | y] for Gaussian sounds of this covariance. F corrects them, with inputs and outputs of
unit scale for each component (EDM's preconditioning, Karras et al. 2022, appendix B.6, along each component). So a
small F suffices, and errors shrink with σ. U, Λ and s are measured on training sounds when the parameters are
initialized, are saved with them, and are not trained.

A component has a deviation of up to √length, so it is decided where σ is large, and training must reach there: with
log σ ~ N(−1, 1.4²), samples diverged after 12,000 steps. Measured on two cores (jax 0.10.2): 5,000 steps in 5 minutes;
the right pitch in 100 % of 480 samples; log-mel Fréchet distance 3.76, with a floor of 3.17. docs/sound.md has what a
DiT reached.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from config_lib.spec import bind, spec
from configs.base import base
from data_lib import Waveform, gather, strings
from eval_lib import LogMelFeatures, feature_frechet, pitch_report
from models import MLP
from sde_lib import (
    EDMWeight,
    LogSigma,
    LogSNRGrid,
    LogSNRTime,
    PredictX0,
    Sampler,
    adam,
    as_is,
    dsm_loss,
    mean,
)
from sde_lib.solvers import DPMSolverPlusPlus

RATE, LENGTH, DATA_STD = 8000, 4096, 0.145  # values per second; per sound; root mean square of the sounds
PITCHES, MEASURED = 24, 9600  # training sounds for U, Λ and s


class WienerMLP(nn.Module):
    """(1) as a network of x_t under VP, for `PredictX0` with c_noise = log σ: x [B, length, 1], c_noise [B] -> x_0.

    cond [B] are labels from 0 to 23. ValueError without them.
    """

    rank: int = 12
    features: int = 128
    num_layers: int = 3
    num_classes: int = PITCHES
    cond_dim: int = 0  # no vector: so labels are classes (`models.network.takes`)

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "..."]:
        if cond is None and not self.is_initializing():
            raise ValueError("WienerMLP: expected labels as cond, got None: the network has no unconditional score")
        label = jnp.zeros(len(x), int) if cond is None else jnp.asarray(cond)
        measured = [self.param(name, measured_value(name, self.rank)) for name in ("basis", "deviations", "rest")]
        basis, deviations, rest = (jax.lax.stop_gradient(value).astype(x.dtype) for value in measured)
        basis, deviations = basis[label], deviations[label]
        variance = jnp.exp(2 * c_noise)[:, None].astype(x.dtype)
        y = x[..., 0] * jnp.sqrt(1 + variance)  # α = 1/√(1 + σ²) under VP
        inside = jnp.einsum("brl,bl->br", basis, y)
        total = deviations**2 + variance
        network = MLP(features=self.features, num_layers=self.num_layers, num_classes=self.num_classes)
        correction = network(inside / jnp.sqrt(total), c_noise / 4, label, train)
        share = rest**2 / (rest**2 + variance)
        scale = deviations * jnp.sqrt(variance / total)
        moved = (deviations**2 / total - share) * inside + scale * correction
        return (share * y + jnp.einsum("br,brl->bl", moved, basis))[..., None]


def measured_value(name: str, rank: int):
    """The initializer of one of the measured values."""
    return lambda key: jnp.asarray(principal(rank)[name], jnp.float32)


@cache
def principal(rank: int) -> dict[str, np.ndarray]:
    """basis [24, rank, length], deviations [24, rank] and rest [1, 1] of training sounds in model space.

    Means are not subtracted: they are in the span. Deviations and rest are those of other sounds than the basis: on its
    own, the rest would be smaller. The rest is a median over time, since what the components lack of the sounds is at
    their start.
    """
    batch = gather(strings().train, np.arange(MEASURED))
    x, label = batch["x"][..., 0].astype(np.float64) / DATA_STD, batch["label"]
    basis, deviations, rests = np.zeros((PITCHES, rank, LENGTH)), np.zeros((PITCHES, rank)), []
    for pitch in range(PITCHES):
        own = x[label == pitch]
        first, others = np.split(own, [len(own) * 3 // 4])
        values, vectors = np.linalg.eigh(first @ first.T)  # smaller than the covariance
        basis[pitch] = (vectors[:, -rank:] / np.sqrt(values[-rank:])).T[::-1] @ first
        inside = others @ basis[pitch].T
        deviations[pitch] = np.sqrt(np.mean(inside**2, axis=0))
        rests.append(np.mean((others - inside @ basis[pitch]) ** 2, axis=0))
    return {"basis": basis, "deviations": deviations, "rest": np.sqrt([[np.median(np.mean(rests, axis=0))]])}


def get_config():
    config = base()
    config.shape = (LENGTH, 1)
    config.data = spec(strings, count=20_000, in_memory=True)
    config.transform = spec(Waveform, rate=RATE, std=DATA_STD)
    config.network = spec(WienerMLP, num_classes=PITCHES)
    config.parameterization = spec(PredictX0, c_noise=LogSigma())
    config.time_distribution = spec(LogSNRTime)  # a component has a deviation of up to √length: all levels matter
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=1.0), reduce=mean)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=100, decay_steps=0, b2=0.99)
    config.training.update(batch_size=128, num_steps=5000, ema=0.998, log_every=100, eval_every=1000)
    config.training.update(checkpoint_every=1000, sample_every=0, keep_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    reverse_sde, grid = DPMSolverPlusPlus(order=2, tau=1.0), LogSNRGrid(t_end=1e-4)
    config.sampling.sde = spec(Sampler, solver=reverse_sde, grid=grid, num_steps=40, denoise=as_is)
    config.sampling.use = "sde"
    config.sampling.batch_size = 240
    config.eval.features = spec(LogMelFeatures, rate=RATE)
    config.eval.metrics.frechet = bind(feature_frechet)
    config.eval.report = bind(pitch_report, rate=RATE, lowest=110.0, classes=24)
    return config
