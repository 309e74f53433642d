"""A model whose score is exact, in the units of its data: levels 0 … 16 carried to [−1, 1], normal in model space."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from data_lib import Condition, Conditions, Scale, Standardize
from models import MLP, as_network
from sde_lib import (
    VP,
    Adaptive,
    AdaptiveSDE,
    DiagonalVP,
    Exact,
    Fixed,
    Hutchinson,
    Likelihood,
    LogSNRGrid,
    PredictNoise,
    ProbabilityFlowODE,
    Sampler,
    ScoreModel,
    expand,
)
from sde_lib.solvers import DDIM

STD, SHAPE, KEY = 0.4, (2, 3), jax.random.key(3)


def exact_network(params, x, c_noise, *, cond=None, key=None, train=False):
    """ε̂ of N(shift, STD²) under VP: −σ score, with the time for the noise label and `cond` for the shift."""
    sde, shift = VP(), 0.0 if cond is None else cond
    alpha, sigma = expand(sde.alpha(c_noise), x), expand(sde.sigma(c_noise), x)
    shift = expand(jnp.asarray(shift, x.dtype), x)
    return sigma * (x - alpha * shift) / ((alpha * params["std"]) ** 2 + sigma**2)


MODEL = ScoreModel(
    sde=VP(),
    parameterization=PredictNoise(),
    params={"std": jnp.asarray(STD)},
    network=exact_network,
    shape=SHAPE,
    transform=Scale(low=0.0, high=16.0),
    likelihood=Likelihood(divergence=Exact(), solver=Adaptive(rtol=1e-6, atol=1e-6), to_data=True),
)
LEVELS = np.random.default_rng(0).integers(3, 14, size=(64, *SHAPE))


def test_log_prob_is_in_the_units_of_the_data():
    """log N(F(x); 0, STD²) + d log 2/16: integrated over the data's own units the density is 1."""
    x = np.float32([[[8.0, 4.0, 11.5]] * 2, [[0.0, 16.0, 7.0]] * 2])
    found = MODEL.log_prob(KEY, x)
    expected = np.sum(norm.logpdf(x, 8, 8 * STD), axis=(1, 2))
    np.testing.assert_allclose(found.value, expected, atol=2e-3)
    assert np.all(found.solver < 1e-2) and np.all(found.probes == 0)


class Halves(Standardize):
    """A transform that takes no dtype."""

    def forward(self, x):
        return np.float32(x) / 2

    def inverse(self, x):
        return np.float32(x) * 2


@pytest.mark.parametrize(
    ("shape", "transform", "dtype"),
    [
        ((4, 5, 1), Scale(0.0, 255.0), np.uint8),
        ((4, 5, 3), Scale(0.0, 16.0), np.float32),
        ((4, 5, 3), Standardize(100.0, 50.0), np.float32),
        ((5, 3), Scale(0.0, 255.0), np.float32),
        ((2, 2, 2, 1), Scale(0.0, 255.0), np.float32),
        ((4, 5, 3), None, np.float64),
    ],
)
def test_samples_are_what_the_data_were(shape, transform, dtype):
    """uint8, rounded and clipped, for images of 0 … 255; else, and unrounded, in the units of the data."""
    model = MODEL.replace(shape=shape, transform=transform, sampler=Sampler(solver=DDIM(), num_steps=3))
    found, exact = model.sample(KEY, 6), model.sample(KEY, 6, rounded=False)
    z = np.asarray(model.sample_indices(KEY, jnp.arange(6)), np.float64)
    assert found.dtype == dtype and found.shape == exact.shape == (6, *shape)
    if dtype == np.uint8:
        np.testing.assert_array_equal(found, np.rint(np.clip((np.float32(z) + 1) * 127.5, 0, 255)))
        assert exact.dtype == np.float32 and np.any(exact != np.rint(exact))
        np.testing.assert_allclose(exact, 127.5 * (z + 1), rtol=1e-5, atol=1e-4)
    else:
        np.testing.assert_array_equal(found, exact)


def test_codes_of_images_are_not_rounded():
    model = MODEL.replace(shape=(2, 3, 1), transform=Scale(0.0, 255.0))
    x = np.random.default_rng(0).uniform(40, 200, (5, 2, 3, 1))
    back = model.decode(model.encode(x))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=0.02)


TIGHT = Likelihood(divergence=Exact(), solver=Adaptive(rtol=1e-12, atol=1e-12, max_steps=100_000))


def log_prob_error(model):
    """The largest error of log p_{t_min}(x), relative to the density of the prior at the end of the flow."""
    x = np.random.default_rng(1).uniform(4, 12, (8, *SHAPE))
    found = model.log_prob(KEY, x)
    sde, z = model.sde, np.asarray(model.to_model(x), np.float64)
    first, last = (float(np.hypot(float(sde.alpha(t)) * STD, float(sde.sigma(t)))) for t in (sde.t_min, sde.t_max))
    misfit = norm.logpdf(found.z, 0, 1) - norm.logpdf(found.z, 0, last)
    expected = np.sum(norm.logpdf(z, 0, first) + np.log(2 / 16) + misfit, axis=(1, 2))
    return np.max(np.abs(np.asarray(found.value, np.float64) - expected))


def test_float64_on_request():
    """With a tight tolerance log p of a Gaussian is right to 1e-10, which float32 cannot reach."""
    model = SMALL.replace(params={"std": jnp.asarray(STD, jnp.float32)}, likelihood=TIGHT)
    double = model.astype(jnp.float64).replace(params={"std": jnp.asarray(STD)})
    assert double.to_model(np.ones((1, *SHAPE))).dtype == jnp.float64
    assert log_prob_error(double) < 1e-10
    single = model.replace(likelihood=TIGHT.replace(solver=Adaptive(rtol=1e-6, atol=1e-6)))
    assert 1e-7 < log_prob_error(single) < 1e-3
    x = np.random.default_rng(0).uniform(2, 14, (4, *SHAPE))
    back = double.decode(double.encode(x))
    assert back.dtype == double.sample(KEY, 2).dtype == double.encode(x).dtype == np.float64
    np.testing.assert_allclose(back, x, atol=1e-9)


def test_all_arrays_are_cast_and_nothing_else():
    model = MODEL.replace(
        params={"kernel": jnp.ones(2, jnp.float32), "count": jnp.ones(2, jnp.int32)},
        sde=DiagonalVP(scales=jnp.ones(3, jnp.float32)),
    )
    double = model.astype("float64")
    kinds = {name: leaf.dtype for name, leaf in double.params.items()} | {"scales": double.sde.scales.dtype}
    assert kinds == {"kernel": jnp.float64, "count": jnp.int32, "scales": jnp.float64}
    assert double.astype(jnp.float32).params["kernel"].dtype == jnp.float32
    for dtype in ("bfloat16", "float16", "int32"):
        with pytest.raises(ValueError, match=f"astype: expected float32 or float64, got {dtype}"):
            model.astype(dtype)
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64 requires JAX_ENABLE_X64=1 in the environment"):
        model.astype(jnp.float64)
    with pytest.raises(ValueError, match=r"Halves\.forward takes no dtype: write \(self, x, dtype=np\.float32\)"):
        model.replace(transform=Halves()).astype(jnp.float64).to_model(np.ones((2, *SHAPE)))


def test_log_prob_under_a_condition():
    x, shift = np.full((2, *SHAPE), 8.0, np.float32), jnp.asarray([0.0, 0.5])
    found = MODEL.log_prob(KEY, x, shift).value
    expected = 6 * norm.logpdf(8.0, [8.0, 12.0], 8 * STD)
    np.testing.assert_allclose(found, expected, atol=0.05)  # the prior's mean is 0, not α shift
    assert expected[0] - expected[1] > 4


def test_every_method_takes_cond_in_the_units_of_the_data():
    """With `conditions` that standardize, 300 to 600 are what 0 to 0.5 are without."""
    conditions = Conditions((("cond", Condition(transform=Standardize(300.0, 600.0))),))
    model, raw, shift = SMALL.replace(conditions=conditions), np.array([300.0, 600.0]), jnp.asarray([0.0, 0.5])
    x, t, numbers = LEVELS[:2], jnp.full(2, 0.4), jnp.arange(2)
    z = jnp.asarray(x / 8 - 1, jnp.float32)
    calls = {
        "log_prob": lambda m, c: m.log_prob(KEY, x, c).value,
        "encode": lambda m, c: m.encode(x, c),
        "decode": lambda m, c: m.decode(z, cond=c),
        "bits": lambda m, c: m.bits_per_dim(KEY, x, cond=c),
        "elbo": lambda m, c: m.elbo(KEY, x, num_times=2, cond=c).value,
        "sample": lambda m, c: m.sample_indices(KEY, numbers, c),
        "score": lambda m, c: m.score(z, t, c),
        "score_given": lambda m, c: m.score_given(c)(z, t),
    }
    for name, call in calls.items():
        found = call(model, raw)
        np.testing.assert_allclose(found, call(SMALL, shift), rtol=1e-4, atol=1e-4, err_msg=name)
        assert np.max(np.abs(found - call(model, raw[::-1]))) > 1e-2, name


def test_probes_are_of_the_key_and_the_row():
    model = MODEL.replace(likelihood=Likelihood(divergence=Hutchinson(probes=2, law="gaussian")))
    together = model.log_prob(KEY, LEVELS[:4]).value
    others = np.concatenate([LEVELS[:1], LEVELS[5:8]])
    np.testing.assert_allclose(model.log_prob(KEY, others).value[:1], together[:1], atol=1e-3)
    assert np.all(np.abs(model.log_prob(jax.random.key(4), LEVELS[:4]).value - together) > 1e-2)


def test_codes():
    """The flow of N(0, STD²) scales: z = F(x) std(t_max)/std(t_min); half the temperature, half the distance to 8."""
    z = MODEL.encode(LEVELS)
    sde = VP()
    std = [float(jnp.hypot(sde.alpha(t) * STD, sde.sigma(t))) for t in (sde.t_min, sde.t_max)]
    np.testing.assert_allclose(z, (LEVELS / 8 - 1) * std[1] / std[0], atol=1e-3)
    np.testing.assert_allclose(MODEL.decode(z), LEVELS, atol=1e-2)
    np.testing.assert_allclose(MODEL.decode(z, temperature=0.5), 8 + (LEVELS - 8) / 2, atol=1e-2)


def test_bits_per_dim():
    """Against the exact probability of each bin, which is 1 wide in the units of the data; the ELBO agrees."""
    exact = -np.mean(np.log2(np.diff(norm.cdf([LEVELS - 0.5, LEVELS + 0.5], 8, 8 * STD), axis=0)[0]), axis=(1, 2))
    bits = np.asarray(MODEL.bits_per_dim(KEY, LEVELS, samples=8))
    assert abs(np.mean(bits - exact)) < 4 * np.std(bits - exact) / 8 + 2e-3
    half = np.asarray(MODEL.bits_per_dim(KEY, LEVELS / 2, samples=1, step=0.5))
    wide = np.asarray(MODEL.bits_per_dim(KEY, LEVELS / 2, samples=1, step=1.0))
    # Bins twice as wide hold twice the probability, but for the curvature of the density.
    np.testing.assert_allclose(np.mean(half - wide), 1.0, atol=0.03)


def test_the_elbo_is_in_the_units_of_the_data():
    found = MODEL.elbo(KEY, LEVELS.astype(np.float32), num_times=32)
    expected = np.sum(norm.logpdf(LEVELS, 8, 8 * STD), axis=(1, 2))
    gap = np.asarray(found.value) - expected
    assert abs(np.mean(gap)) < 4 * np.std(gap) / 8 + 0.02
    # The same draws for the sum, and a decoder that, at t_min, tells a level from the next, 0.13 away.
    discrete = MODEL.elbo(KEY, LEVELS, levels=np.arange(17))
    np.testing.assert_allclose(discrete.diffusion, found.diffusion, rtol=1e-5)
    np.testing.assert_allclose(discrete.reconstruction, 0.0, atol=1e-3)
    np.testing.assert_allclose(discrete.value, -discrete.diffusion - discrete.prior, rtol=1e-5)
    # With levels of which the decoder cannot tell one from another, each is one of two.
    doubled = MODEL.elbo(KEY, LEVELS, levels=np.repeat(np.arange(17), 2))
    np.testing.assert_allclose(doubled.reconstruction, -6 * np.log(2), atol=1e-3)


SHAPES = [pytest.param(s, marks=pytest.mark.slow) for s in ((2,), (64, 3), (128, 1), (8, 8, 1))] + [(4, 6, 5, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_event_shapes(shape):
    """All that a model does, for points, signals, images and volumes, against the closed forms of N(0, STD²)."""
    cheap = Likelihood(solver=Fixed(grid=LogSNRGrid(), num_steps=32), to_data=True)  # signs are exact on a diagonal
    sampler = Sampler(solver=DDIM(), grid=LogSNRGrid(), num_steps=64)
    model, d = MODEL.replace(shape=shape, likelihood=cheap, sampler=sampler), int(np.prod(shape))
    x, sde = np.random.default_rng(1).integers(3, 14, size=(4, *shape)), VP()
    axes, t = tuple(range(1, x.ndim)), jnp.asarray([0.1, 0.3, 0.5, 0.9], jnp.float32)
    y = jnp.asarray(x / 8 - 1, jnp.float32)
    variance = (sde.alpha(t) * STD) ** 2 + sde.sigma(t) ** 2
    np.testing.assert_allclose(model.score(y, t), -y / expand(variance, y), rtol=1e-4)
    nats = np.sum(norm.logpdf(x, 8, 8 * STD), axis=axes)
    np.testing.assert_allclose(model.log_prob(KEY, x).value, nats, atol=1e-3 * d)
    z = model.encode(x)
    np.testing.assert_allclose(z, y / STD, atol=2e-3)
    np.testing.assert_allclose(model.decode(z), x, atol=2e-2)
    exact = -np.mean(np.log2(np.diff(norm.cdf([x - 0.5, x + 0.5], 8, 8 * STD), axis=0)[0]), axis=axes)
    assert np.all(np.abs(np.asarray(model.bits_per_dim(KEY, x)) - exact) < 0.15 / np.sqrt(d) * 5)
    bound = model.elbo(KEY, x.astype(np.float32), num_times=256)  # of 32 skewed draws the error itself is a guess
    assert np.all(np.abs(np.asarray(bound.value) - nats) < 5 * np.asarray(bound.error) + 0.002 * d)
    drawn = model.sample(KEY, 4)
    assert drawn.shape == (4, *shape)
    z = (drawn - 8) / (8 * STD)
    assert abs(np.mean(z)) < 5 / np.sqrt(4 * d) and abs(np.std(z) - 1) < 5 / np.sqrt(8 * d) + 0.02


SMALL = MODEL.replace(
    likelihood=Likelihood(divergence=Exact(), solver=Fixed(num_steps=2)), sampler=Sampler(solver=DDIM(), num_steps=2)
)
OPERATIONS = {  # each with n rows and a condition
    "sample": lambda model, n, cond: model.sample(KEY, n, cond),
    "log_prob": lambda model, n, cond: model.log_prob(KEY, LEVELS[:n], cond).value,
    "encode": lambda model, n, cond: model.encode(LEVELS[:n], cond),
    "decode": lambda model, n, cond: model.decode(jnp.zeros((n, *SHAPE), jnp.float32), cond=cond),
    "bits": lambda model, n, cond: model.bits_per_dim(KEY, LEVELS[:n], cond=cond),
    "elbo": lambda model, n, cond: model.elbo(KEY, LEVELS[:n], num_times=2, cond=cond).value,
}
EVENTS = ("sample", "encode", "decode")  # the others have one number per row


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_rows_give_an_empty_result(name):
    found, one = (np.asarray(OPERATIONS[name](SMALL, n, None)) for n in (0, 1))
    assert found.shape == (0, *(SHAPE if name in EVENTS else ())) and found.dtype == one.dtype
    assert np.asarray(OPERATIONS[name](SMALL, 0, jnp.zeros(0))).shape == found.shape


@pytest.mark.parametrize("sampler", [AdaptiveSDE(), ProbabilityFlowODE()])
def test_no_samples_of_a_sampler_that_chooses_its_steps(sampler):
    samples, nfe = SMALL.replace(sampler=sampler).with_nfe(KEY, jnp.arange(0), x_T=jnp.zeros((0, *SHAPE)))
    assert samples.shape == (0, *SHAPE) and nfe.shape == (0,)


@pytest.mark.parametrize("n", [-1, 2.0, "3", None, True])
def test_a_number_of_samples_is_a_whole_number(n):
    with pytest.raises(ValueError, match=r"sample: expected a whole number n >= 0; got [^\n]*$"):
        SMALL.sample(KEY, n)


@functools.cache
def network_with_classes(**options):
    """A small network and its model."""
    network = as_network(MLP(features=4, num_layers=1, **options))
    cond = (None, jnp.zeros((1, 2), jnp.float32)) if options.get("cond_dim") else None
    zeros = jnp.zeros((1, *SHAPE), jnp.float32)
    params = network.init(KEY, zeros, jnp.zeros(1, jnp.float32), cond)
    return SMALL.replace(network=network, params=params)


@pytest.mark.parametrize("name", OPERATIONS)
def test_labels_are_those_of_the_network(name):
    """num_classes itself is no class. A list is as good as an array."""
    model, run = network_with_classes(num_classes=3), OPERATIONS[name]
    assert np.all(np.isfinite(run(model, 3, [0, 3, 1])))
    for cond, message in (
        ([0, 99, 1], r"expected labels from 0 to 2, or 3 for no class; got 99$"),
        (np.asarray([-1, 4, 1]), r"expected labels from 0 to 2, or 3 for no class; got -1, 4$"),
        (np.asarray([0, 1]), r"cond: expected 3 rows, one for each sample; got shape \(2,\)$"),
        (1, r"cond: expected 3 rows, one for each sample; got shape \(\)$"),
    ):
        with pytest.raises(ValueError, match=message):
            run(model, 3, cond)


def test_labels_next_to_a_vector_and_networks_that_state_no_classes():
    both, vector = network_with_classes(num_classes=3, cond_dim=2), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"labels from 0 to 2, or 3 for no class; got 5"):
        both.sample(KEY, 2, (np.asarray([0, 5]), vector))
    with pytest.raises(ValueError, match=r"cond: expected 3 rows"):
        both.sample(KEY, 3, (np.asarray([0, 1, 2]), vector))
    assert both.sample(KEY, 2, (np.asarray([0, 3]), vector)).shape == (2, *SHAPE)
    assert SMALL.sample(KEY, 2, jnp.asarray([0.0, 99.0])).shape == (2, *SHAPE)  # a shift, of which any is allowed


def test_nothing_is_nan_but_a_fault():
    """With jax_debug_nans: what is unknown is inf."""
    one_probe = MODEL.replace(likelihood=Likelihood(solver=Fixed(num_steps=2)), sampler=Sampler(num_steps=2))
    with jax.debug_nans(True):
        found = one_probe.log_prob(KEY, LEVELS[:2])
        assert np.all(np.isfinite(found.value)) and np.all(np.isposinf(found.probes))
        assert np.all(np.isfinite(one_probe.sample(KEY, 2)))


def test_refusals():
    with pytest.raises(ValueError, match=r"expected an integer type, got float32"):
        MODEL.bits_per_dim(KEY, LEVELS.astype(np.float32))
    with pytest.raises(ValueError, match=r"expected data of shape \[B, 2, 3\], got \(64, 6\)"):
        MODEL.log_prob(KEY, LEVELS.reshape(64, 6))
    with pytest.raises(ValueError, match=r"8 samples for bits per dimension require an exact divergence"):
        MODEL.replace(likelihood=Likelihood()).bits_per_dim(KEY, LEVELS, samples=8)
    with pytest.raises(ValueError, match=r"treats all coordinates alike"):
        MODEL.replace(transform=Standardize(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))).elbo(KEY, LEVELS, levels=[0, 1])
