"""Numbers are checked where they are given: the place, the value, what is allowed. Tracers and gradients are not."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    EDM,
    VE,
    VP,
    Adaptive,
    AdaptiveSDE,
    Augmentation,
    CosineVP,
    DiagonalVP,
    EDMGrid,
    EDMPreconditioning,
    EDMWeight,
    Fixed,
    GaussianMixture,
    GridTime,
    Hutchinson,
    LearnedLogSNR,
    Likelihood,
    LogNormalTime,
    LogSigma,
    OrnsteinUhlenbeck,
    PowerGrid,
    PowerTime,
    PredictNoise,
    ProbabilityFlowODE,
    RectifiedFlow,
    Sampler,
    ScoreMatching,
    StratifiedTime,
    SubVP,
    TabulatedLogSNR,
    UniformGrid,
    adam,
    bits_per_dim,
    check_sde,
    classifier_free,
    discrete_ve,
    discrete_vp,
    dsm_loss,
    elbo,
    make_train_step,
    simulate,
    suggest,
)
from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.solvers import DDIM, SEEDS2, AnnealedLangevin, DPMSolverPlusPlus, EDMHeun, Langevin
from tests.contracts import DoubleWell
from tests.helpers import keys

NAN, INF = math.nan, math.inf
ADAM = dict.fromkeys(("learning_rate", "eps"), "> 0") | dict.fromkeys(("b1", "b2"), ">= 0 and < 1")
KEYS, X, LINEAR = keys(2), jnp.ones((2, 1)), lambda x, t: -x
OBJECTIVE = ScoreMatching(sde=VP(), parameterization=PredictNoise(), loss=dsm_loss, time_distribution=StratifiedTime())

REFUSED = [
    (VE, dict(sigma_min=2, sigma_max=1), "VE: expected a finite number sigma_min > 0 and < sigma_max; got sigma_min=2"),
    (VE, dict(sigma_min=0.0), "sigma_min=0"),
    (VE, dict(sigma_max=INF), "sigma_max=inf"),
    (VP, dict(beta_min=-0.1), "beta_min >= 0 and <= beta_max; got beta_min=-0.1"),
    (VP, dict(beta_min=3.0, beta_max=2.0), "got beta_min=3 and beta_max=2"),
    (SubVP, dict(beta_max=jnp.asarray(NAN)), "beta_max=nan"),
    (
        VP,
        dict(t_min=0.5, t_max=0.5),
        "VP: expected a finite number t_min >= 0 and < t_max; got t_min=0.5 and t_max=0.5",
    ),
    (EDM, dict(t_min=-1e-3), "t_min=-0.001"),
    (CosineVP, dict(t_max=1.0), "t_max > 0 and < 1; got t_max=1"),
    (RectifiedFlow, dict(t_max=1.0), "t_max > 0 and < 1; got t_max=1"),
    (OrnsteinUhlenbeck, dict(rate=0), "rate > 0; got rate=0"),
    (OrnsteinUhlenbeck, dict(noise=-1), "noise > 0; got noise=-1"),
    (DiagonalVP, dict(scales=np.asarray([[1.0, 2.0], [3.0, 0.0]])), "scales > 0; got scales[1, 1]=0"),
    (DiagonalVP, dict(scales=(1.0, -2.0)), "got scales[1]=-2"),
    (LearnedLogSNR, dict(logits=np.zeros(3), log_snr_min=14.0), "log_snr_min < log_snr_max; got log_snr_min=14"),
    (TabulatedLogSNR, dict(knots=(0.0, 0.5, 1.0), values=(3.0, 3.5, 1.0)), "values that decrease; got 3, 3.5"),
    (TabulatedLogSNR, dict(knots=(0.0, 1.0, 0.5), values=(3.0, 2.5, 1.0)), "knots that increase; got 1, 0.5"),
    (TabulatedLogSNR, dict(knots=(0.0, 0.5), values=(3.0, 2.5)), "t_max"),
    (TabulatedLogSNR, dict(knots=(0.0, 0.5, 1.0), values=(3.0, 2.5)), "as many knots as values; got 3 and 2"),
    (discrete_vp, dict(num_steps=1), "num_steps >= 2; got num_steps=1"),
    (discrete_vp, dict(beta_min=0.03), "got beta_min=0.03 and beta_max=0.02"),
    (discrete_vp, dict(betas=(0.1, 0.2, 1.0)), "betas > 0 and < 1; got betas[2]=1"),
    (discrete_ve, dict(sigma_min=1.5), "got sigma_min=1.5 and sigma_max=1"),
    (discrete_ve, dict(sigmas=(0.1, 0.3, 0.2)), "sigmas that increase; got 0.3, 0.2"),
    (UniformGrid, dict(t_end=-0.1), "t_end >= 0; got t_end=-0.1"),
    (PowerGrid, dict(power=0), "power > 0"),
    (EDMGrid, dict(rho=NAN), "rho=nan"),
    (PowerTime, dict(power=-1.0), "power > 0"),
    (LogNormalTime, dict(std=0.0), "std > 0"),
    (GridTime, dict(num_steps=0), "a whole number num_steps >= 1; got num_steps=0"),
    (EDMWeight, dict(sigma_data=0), "sigma_data > 0"),
    (EDMPreconditioning, dict(sigma_data=NAN), "sigma_data=nan"),
    (LogSigma, dict(unit=0), "unit > 0"),
    (Sampler, dict(num_steps=0), "Sampler: expected a whole number num_steps >= 1; got num_steps=0"),
    (Sampler, dict(num_steps=2.5), "got num_steps=2.5"),
    (DDIM, dict(eta=1.5), "eta >= 0 and <= 1; got eta=1.5"),
    (SEEDS2, dict(tau=-1), "tau >= 0"),
    (DPMSolverPlusPlus, dict(tau=INF), "tau=inf"),
    (Langevin, dict(snr=0.0), "snr > 0; got snr=0"),
    (AnnealedLangevin, dict(steps=-1), "steps >= 0; got steps=-1"),
    (EDMHeun, dict(gamma=-0.1), "gamma >= 0"),
    (EDMHeun, dict(S_tmin=2, S_tmax=1), "got S_tmin=2 and S_tmax=1"),
    (AdaptiveSDE, dict(rel_tol=-0.1), "rel_tol >= 0"),
    (AdaptiveSDE, dict(abs_tol=0.0), "abs_tol > 0"),
    (AdaptiveSDE, dict(h_init=0.0), "h_init > 0; got h_init=0"),
    (ProbabilityFlowODE, dict(t_end=NAN), "t_end=nan"),
    (Adaptive, dict(rtol=NAN), "rtol=nan"),
    (Adaptive, dict(max_steps=0), "max_steps >= 1"),
    (Fixed, dict(num_steps=0), "num_steps >= 1"),
    (Hutchinson, dict(probes=0), "probes >= 1"),
    (Augmentation, dict(probability=1.2), "probability >= 0 and <= 1; got probability=1.2"),
    (Augmentation, dict(flip=-0.1), "flip >= 0"),
    (GaussianMixture, dict(means=((0.0,),), stds=((-1.0,),), weights=(1.0,)), "stds >= 0; got stds[0, 0]=-1"),
    *(
        (adam, {name: NAN}, f"adam: expected a finite number {name} {rule}; got {name}=nan")
        for name, rule in ADAM.items()
    ),
    (adam, dict(learning_rate=0.0), "learning_rate > 0; got learning_rate=0"),
    (adam, dict(b1=1.0), "b1 >= 0 and < 1; got b1=1"),
    (adam, dict(b2=-0.5), "got b2=-0.5"),
    (adam, dict(weight_decay=-0.1), "weight_decay >= 0"),
    (adam, dict(warmup_steps=-1), "warmup_steps >= 0"),
    (adam, dict(decay_steps=0), "decay_steps >= 1"),
    (adam, dict(clip_norm=NAN), "adam: expected a number clip_norm; got clip_norm=nan"),
    (partial(make_train_step, LINEAR, OBJECTIVE, adam()), dict(ema=1.5), "ema >= 0 and <= 1"),
    (partial(make_train_step, LINEAR, OBJECTIVE, adam()), dict(accumulate=0), "accumulate >= 1"),
    (partial(bits_per_dim, KEYS, LINEAR, X), dict(bin_width=0.0), "bin_width > 0"),
    (partial(bits_per_dim, KEYS, LINEAR, X), dict(bin_width=0.1, samples=0), "samples >= 1"),
    (partial(elbo, KEYS, VP(), LINEAR, X), dict(num_times=0), "num_times >= 2; got num_times=0"),
    (partial(simulate, KEYS, DoubleWell(), X, 0.5), dict(num_steps=0), "num_steps >= 1"),
    (partial(check_sde, VP()), dict(data_std=-1.0), "check_sde: expected a finite number data_std >= 0"),
    (partial(classifier_free, LINEAR, LINEAR), dict(scale=NAN), "classifier_free: expected a finite number scale"),
    (partial(suggest, X), dict(kl=NAN), "suggest: expected a finite number kl > 0; got kl=nan"),
    (partial(Likelihood().decode, VP(), LINEAR, X), dict(temperature=-1.0), "temperature >= 0"),
]


@pytest.mark.parametrize(("build", "numbers", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_number_that_is_not_allowed_is_refused_in_one_line(build, numbers, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build(**numbers)
    assert "\n" not in str(error.value)


def test_replacing_a_number_checks_it_and_its_neighbors():
    with pytest.raises(ValueError, match=r"got sigma_min=0.01 and sigma_max=0.001"):
        VE().replace(sigma_max=1e-3)


def test_the_limits_themselves_are_allowed():
    VP(beta_min=2.0, beta_max=2.0, t_min=0.0)
    EDMHeun(S_tmax=INF)
    adam(weight_decay=0.0, warmup_steps=0, decay_steps=1, clip_norm=INF)
    Augmentation(probability=1, flip=0)
    Sampler(num_steps=np.int64(1))
    DDIM(eta=1)


@pytest.mark.parametrize("sampler", [Sampler(grid=UniformGrid(t_end=1.0)), AdaptiveSDE(t_end=2.0)])
def test_a_grid_must_end_before_the_process_does(sampler):
    """Known only when both meet: a sampler's `check`, and its call."""
    with pytest.raises(ValueError, match=r"t_end >= 0 and < t_max; got t_end=. and t_max=1"):
        sampler.check(VP())
    with pytest.raises(ValueError, match=r"t_end >= 0 and < t_max"):
        sampler(keys(1), VP(), lambda x, t: -x, (1,))


def test_nothing_is_checked_under_jit_nor_when_jax_rebuilds_a_value():
    """A gradient with respect to a process is no process; nor are shapes."""
    slope = jax.grad(lambda sde: sde.sigma(1.0))(VE(sigma_min=0.1, sigma_max=2.0))
    assert slope.sigma_min == 0 and slope.sigma_max == 1
    assert jax.tree.map(lambda leaf: -leaf, VP()).t_max == -1
    assert jax.jit(lambda s: VE(sigma_min=s, sigma_max=1.0).sigma(1.0))(2.0) == 1
    assert jax.eval_shape(lambda: VP()) is not None and jax.tree.map(lambda leaf: None, VP()).t_min is None


def test_a_derived_class_keeps_the_rules_of_fields_that_it_declares_again():
    class Shorter(DoubleWell):
        t_max: float = 0.5

        def __post_init__(self):  # of its own, without its parent's
            pass

    class Free(VP):
        beta_min: Scalar = number(-1.0)

    class Whole(RectifiedFlow):
        t_max: Scalar = 1.0  # its author's choice, with an alpha of their own

    with pytest.raises(ValueError, match=r"Shorter: expected a finite number t_min >= 0 and < t_max; got t_min=0.7"):
        Shorter(t_min=0.7)
    assert Free().beta_min == -1 and Whole(t_max=0.5).t_max == 0.5
    with pytest.raises(ValueError, match=r"t_min=2 and t_max=1"):
        Whole(t_min=2)
    with pytest.raises(ValueError, match=r"beta_max > 0"):
        Free(beta_max=0.0)


def test_rules_of_a_class_of_ones_own():
    class Own(PyTreeNode):
        low: Scalar = number(0.0, at_least=0, below="high")
        high: Scalar = number(1.0)
        steps: int = static(3, at_least=2)

    assert Own(low=None, high=object(), steps=5).steps == 5  # what is no number passes
    for bad, message in (
        (dict(low=1.0), "low=1 and high=1"),
        (dict(steps=1), "steps=1"),
        (dict(high=-INF), "high=-inf"),
    ):
        with pytest.raises(ValueError, match=message):
            Own(**bad)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0])
def test_a_clip_norm_of_zero_or_less_is_no_clipping(clip_norm, usual_promotion):
    gradient = {"w": jnp.asarray([300.0, -400.0])}
    found, expected = (
        tx.update(gradient, tx.init(gradient), gradient)[0]
        for tx in (adam(1.0, 0, clip_norm=c, b1=0.0, b2=0.0, eps=1e3) for c in (clip_norm, 1e9))
    )
    np.testing.assert_allclose(found["w"], [-300 / 1300, 400 / 1400], rtol=1e-6)
    np.testing.assert_array_equal(found["w"], expected["w"])


def test_a_bin_width_must_not_be_negative():
    with pytest.raises(ValueError, match=r"bin_width >= 0; got bin_width=-0.1"):
        OBJECTIVE.replace(bin_width=-0.1)
