"""The table of everything that the contracts run over: a newcomer's class gets its tests by a line here."""

import jax
import jax.numpy as jnp

from sde_lib import (
    SDE,
    VE,
    VP,
    GaussianSDE,
    Karras,
    KarrasGrid,
    KarrasWeight,
    LikelihoodWeight,
    LogNormalTime,
    LogSNRGrid,
    PowerGrid,
    PredictNoise,
    PredictScore,
    PredictV,
    PredictX0,
    SigmaSquared,
    StratifiedTime,
    SubVP,
    UniformGrid,
    UniformTime,
)
from sde_lib.node import static
from sde_lib.solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    NoCorrector,
    PredictorCorrector,
    ReverseDiffusion,
)


class Cosine(GaussianSDE):
    """A user's process: α = cos(πt/2), σ = sin(πt/2), stopped before α reaches 0."""

    t_max: float = 0.99

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * t)

    def sigma(self, t):
        return jnp.sin(0.5 * jnp.pi * t)


class Diagonal(GaussianSDE):
    """A user's process with a coefficient for each of two halves of the coordinates: VP at two speeds."""

    size: int = static(64)

    def _integral(self, t):
        speed = jnp.where(jnp.arange(self.size) < self.size // 2, 0.5, 1.0)
        t = jnp.reshape(jnp.asarray(t), (-1, 1))
        return (0.1 * t + 9.95 * t**2) * speed[None].astype(t.dtype)

    def alpha(self, t):
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))


class DoubleWell(SDE):
    """A user's process with a non-linear drift, which has no kernel."""

    def drift(self, x, t):
        return x - x**3

    def diffusion(self, t):
        return 1.0

    def prior_sample(self, keys, shape):
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

    def prior_logp(self, x):
        return -0.5 * jnp.sum(x**2, axis=1)


SDES = {
    "vp": VP(),
    "vp_slow": VP(beta_min=0.5, beta_max=10.0, t_min=1e-4),
    "subvp": SubVP(),
    "ve": VE(sigma_max=20.0),
    "cosine": Cosine(),
}

PARAMETERIZATIONS = {
    "noise": PredictNoise(),
    "score": PredictScore(),
    "x0": PredictX0(),
    "v": PredictV(),
    "karras": Karras(sigma_data=1.3),
}

WEIGHTS = {"sigma2": SigmaSquared(), "likelihood": LikelihoodWeight(), "karras": KarrasWeight(sigma_data=0.7)}

TIME_LAWS = {"uniform": UniformTime(), "stratified": StratifiedTime(), "lognormal": LogNormalTime(mean=-0.5, std=1.0)}

GRIDS = {"uniform": UniformGrid(), "power": PowerGrid(), "log_snr": LogSNRGrid(), "karras": KarrasGrid()}

# name: (solver, its order: of the end point for the deterministic ones, of the end's variance for the others)
STEPPERS = {
    "euler": (Euler(), 1),
    "heun": (Heun(), 2),
    "ddim": (DDIM(), 1),
    "euler_maruyama": (EulerMaruyama(), 1),
    "reverse_diffusion": (ReverseDiffusion(), 1),
    "ancestral": (Ancestral(), 1),
    "ancestral_large": (Ancestral(large_variance=True), 1),
    "ddim_half": (DDIM(eta=0.5), 1),
}
DETERMINISTIC = ("euler", "heun", "ddim")

CORRECTED = {
    "pc_published": PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(snr=0.1, norm="batch")),
    "pc_expected": PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(snr=0.1)),
    "pc_annealed": PredictorCorrector(predictor=EulerMaruyama(), corrector=AnnealedLangevin(snr=0.1, steps=2)),
    "pc_paper": PredictorCorrector(predictor=Ancestral(), corrector=Langevin(snr=0.1, steps=2), corrector_first=False),
    "pc_none": PredictorCorrector(predictor=DDIM(), corrector=NoCorrector()),
}

SOLVERS = {name: solver for name, (solver, _) in STEPPERS.items()} | CORRECTED
