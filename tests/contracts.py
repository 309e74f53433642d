"""The table of everything that the contracts run over: a newcomer's class gets its tests by a line here."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from models import ADM, MLP, NCSN, DiT, NCSNpp, NCSNv2, UNetEncoder, WideResNet
from sde_lib import (
    EDM,
    VE,
    VP,
    AdaptiveSDE,
    CosineVP,
    DiagonalVP,
    EDMGrid,
    EDMPreconditioning,
    EDMWeight,
    GaussianSDE,
    LearnedLogSNR,
    LikelihoodWeight,
    LinearSDE,
    LogNormalTime,
    LogSNRGrid,
    NonlinearSDE,
    OrnsteinUhlenbeck,
    PlainScore,
    PowerGrid,
    PredictNoise,
    PredictScore,
    PredictV,
    PredictX0,
    ProbabilityFlowODE,
    RectifiedFlow,
    Sampler,
    SigmaSquared,
    StratifiedTime,
    SubVP,
    TabulatedLogSNR,
    UniformGrid,
    UniformTime,
    as_is,
    discrete_ve,
    discrete_vp,
)
from sde_lib.solvers import (
    DDIM,
    DEIS,
    SEEDS2,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    DPMSolverPlusPlus,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    NoCorrector,
    PredictorCorrector,
    ReverseDiffusion,
    UniPC,
)


class Cosine(GaussianSDE):
    """A user's process: α = cos(πt/2), σ = sin(πt/2), stopped before α reaches 0."""

    t_max: float = 0.99

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * t)

    def sigma(self, t):
        return jnp.sin(0.5 * jnp.pi * t)


class Coefficients(LinearSDE):
    """A user's process known by its coefficients: the cosine's, f = −(π/2) tan(πt/2) and g² = π tan(πt/2)."""

    t_max: float = 0.99

    def drift_rate(self, t):
        return -0.5 * jnp.pi * jnp.tan(0.5 * jnp.pi * t)

    def diffusion(self, t):
        return jnp.sqrt(jnp.pi * jnp.tan(0.5 * jnp.pi * t))


class DoubleWell(NonlinearSDE):
    """A user's process with a non-linear drift, which has no kernel."""

    def drift(self, x, t):
        return x - x**3

    def diffusion(self, t):
        return 1.0


SDES = {
    "vp": VP(),
    "vp_slow": VP(beta_min=0.5, beta_max=10.0, t_min=1e-4),
    "subvp": SubVP(),
    "ve": VE(sigma_max=20.0),
    "cosine": Cosine(),
    "coefficients": Coefficients(),
    "cosine_vp": CosineVP(),
    "edm": EDM(),
    "straight_line": RectifiedFlow(),
    "ornstein_uhlenbeck": OrnsteinUhlenbeck(rate=0.9, noise=1.3),
    "tabulated": TabulatedLogSNR(
        knots=np.linspace(0.0, 1.0, 9), values=np.asarray([13.0, 7.5, 4.6, 2.4, 0.4, -1.7, -4.3, -7.3, -10.5])
    ),
    "learned": LearnedLogSNR(logits=np.asarray([0.5, 0.0, -0.3, -0.2, 0.4]), log_snr_min=-10.0),
    "discrete_vp": discrete_vp(),
    "discrete_ve": discrete_ve(num_scales=200, sigma_max=20.0),
}

# What a contract over solvers or losses runs in `make test`; with all of them it is `make test-all`.
CORE = ("vp", "subvp", "ve", "cosine", "edm")


def quick(names, table):
    """(name, value) of each in the table as a pytest parameter: those that are not named are slow."""
    return [
        pytest.param(name, value, id=name, marks=[] if name in names else pytest.mark.slow)
        for name, value in table.items()
    ]


def quickly(*names, among):
    """Over each name among these; those that are not named are slow."""
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=[] if n in names else pytest.mark.slow) for n in among]
    )


each_sde = pytest.mark.parametrize(
    "sde", [pytest.param(sde, id=name, marks=[] if name in CORE else pytest.mark.slow) for name, sde in SDES.items()]
)

DIAGONAL = {
    "diagonal_vp": DiagonalVP(scales=np.geomspace(0.3, 3.0, 64), speeds=np.linspace(0.7, 1.3, 64)),
}

PARAMETERIZATIONS = {
    "noise": PredictNoise(),
    "score": PredictScore(),
    "plain score": PlainScore(),
    "x0": PredictX0(),
    "v": PredictV(),
    "karras": EDMPreconditioning(sigma_data=1.3),
}

WEIGHTS = {"sigma2": SigmaSquared(), "likelihood": LikelihoodWeight(), "karras": EDMWeight(sigma_data=0.7)}

TIME_LAWS = {"uniform": UniformTime(), "stratified": StratifiedTime(), "lognormal": LogNormalTime(mean=-0.5, std=1.0)}

GRIDS = {"uniform": UniformGrid(), "power": PowerGrid(), "log_snr": LogSNRGrid(), "karras": EDMGrid()}

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

# name: (solver, the order of its end point), and those of noise of their own: few evaluations, on grids even in log-SNR
FAST_FLOW = {
    "dpm2": (DPMSolver(order=2), 2),
    "dpm3": (DPMSolver(order=3), 3),
    "dpm++2s": (SEEDS2(tau=0.0), 2),
    "dpm++2m": (DPMSolverPlusPlus(order=2), 2),
    "dpm++3m": (DPMSolverPlusPlus(order=3), 3),
    "unipc2": (UniPC(order=2), 3),
    "unipc3": (UniPC(order=3), 4),
    "deis2": (DEIS(order=2), 2),
    "deis3": (DEIS(order=3), 3),
    "edm_heun": (EDMHeun(), 2),
}
FAST_NOISY = {
    "seeds2": SEEDS2(),
    "sde_dpm++2m": DPMSolverPlusPlus(tau=1.0),
    "sde_dpm++3m": DPMSolverPlusPlus(order=3, tau=1.0),
    "edm_churn": EDMHeun(gamma=0.2, S_tmin=0.01),
}
FAST = {name: solver for name, (solver, _) in FAST_FLOW.items()} | FAST_NOISY

# Every sampler, with steps enough that what is left of its bias is below a few hundredths of a standard deviation.
_STEPS = {"euler": 400, "euler_maruyama": 300, "reverse_diffusion": 300, "pc_published": 200}
SAMPLERS = {
    name: Sampler(solver=solver, grid=LogSNRGrid(), num_steps=_STEPS.get(name, 200), denoise=as_is)
    for name, solver in SOLVERS.items()
}
SAMPLERS |= {
    name: Sampler(solver=solver, grid=LogSNRGrid(), num_steps=60, denoise=as_is) for name, solver in FAST.items()
}
SAMPLERS |= {"adaptive_sde": AdaptiveSDE(rel_tol=0.02), "probability_flow_ode": ProbabilityFlowODE()}


class OneOf(GaussianSDE):
    """Process number `which` of `sdes`: one compiled program serves them all."""

    sdes: tuple
    which: int

    def alpha(self, t):
        return jnp.stack([jnp.asarray(sde.alpha(t)) for sde in self.sdes])[self.which]

    def sigma(self, t):
        return jnp.stack([jnp.asarray(sde.sigma(t)) for sde in self.sdes])[self.which]


def together(sdes):
    """The same processes by name, of one class."""
    values = tuple(sdes.values())
    return {n: OneOf(sdes=values, which=k, t_min=a.t_min, t_max=a.t_max) for k, (n, a) in enumerate(sdes.items())}


CLOSED = ("vp", "vp_slow", "subvp", "ve", "cosine", "cosine_vp", "edm", "straight_line", "ornstein_uhlenbeck")
QUICK = {"xla_backend_optimization_level": 0}  # for programs that take longer to compile than to run

# Each network, as small as it can be, to be called with further options.
_U_NET = dict(ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), attn_levels=(1,), dropout=0.0)
_NCSNPP = dict(_U_NET, nf=4, embedding="fourier", fir_taps=(1, 3, 3, 1), progressive_input="residual")
NETWORKS = {
    "mlp": partial(MLP, features=8, num_layers=1),
    "ncsnpp": partial(NCSNpp, **_NCSNPP),
    "ddpm": partial(NCSNpp, **_U_NET, nf=4, block="ddpm", fir_taps=(), skip_rescale=False),
    "ncsnv2": partial(NCSNv2, nf=4, ch_mult=(1, 2), dilations=(1, 1), refine_mult=(2, 1)),
    "ncsn": partial(NCSN, nf=4, ch_mult=(1, 2), dilations=(1, 2), refine_mult=(2, 1), num_levels=4),
    "adm": partial(ADM, **_U_NET, nf=4, head_features=4),
    "dit": partial(DiT, features=12, depth=2, heads=2, frequencies=8),
    "adm by convolutions": partial(
        ADM, **_U_NET, nf=4, num_heads=2, resample="conv", scale_shift=False, embedding="timestep", min_group=1
    ),
}
# The same of those whose output is logits.
CLASSIFIERS = {
    "wide_resnet": partial(WideResNet, nf=4, ch_mult=(1, 2), num_res_blocks=1, num_classes=3),
    "unet_encoder": partial(UNetEncoder, **_U_NET, nf=4, head_features=4, num_classes=3),
}
CONVOLUTIONAL = ("ncsnpp", "ddpm", "ncsnv2", "ncsn", "adm")
