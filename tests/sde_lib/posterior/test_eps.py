"""EPS: the exact posterior score from a denoiser for noise per coordinate; its training finds that denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_lib import (
    VE,
    VP,
    EDMPreconditioning,
    LogNormalTime,
    PlainScore,
    PowerGrid,
    Sampler,
    ScoreModel,
    as_is,
    init_state,
    make_score_fn,
    make_train_step,
    sample_keys,
)
from sde_lib.exact import FullMixture
from sde_lib.posterior import EPS, BoxDownsample, Mask, MaskedDenoising, Observation, RandomMasks, eps_score
from sde_lib.posterior.eps import denoiser_of, open_share
from sde_lib.solvers import Ancestral
from tests.contracts import CLOSED, SDES

RNG = np.random.default_rng(0)
ROOTS = RNG.normal(size=(3, 4, 4)) / 2
DATA = FullMixture(
    means=RNG.normal(size=(3, 4)),
    covariances=ROOTS @ ROOTS.transpose(0, 2, 1) + 0.05 * np.eye(4)[None],
    weights=np.array([0.2, 0.5, 0.3]),
)
MASK = np.array([1.0, 0.0, 1.0, 0.0])


def exact_denoiser(mu, v, mask, t):
    """E[x_0 | x_0 + √v z = μ] of DATA: of each row, whose noise has the covariance diag v, where v > 0."""

    def one(mu, v):
        known = DATA.covariances + jnp.diag(v)[None]
        difference = mu[None] - DATA.means
        solved = jnp.linalg.solve(known, difference[..., None])[..., 0]
        log_density = -0.5 * (jnp.sum(difference * solved, -1) + jnp.linalg.slogdet(known)[1])
        means = DATA.means + jnp.einsum("kde,ke->kd", jnp.asarray(DATA.covariances), solved)
        return jax.nn.softmax(log_density + jnp.log(DATA.weights)) @ means

    return jax.vmap(one)(mu, v)


@pytest.mark.parametrize("noise_std", [0.3, 0.0])
@pytest.mark.parametrize("name", CLOSED)
def test_the_oracle_is_exact(name, noise_std):
    """A mixture of three normals with full covariances in 4-D, a mask: the exact posterior's score, to 1e-9."""
    sde, y = SDES[name], MASK * RNG.normal(size=4)
    A = np.eye(4)[MASK > 0]
    posterior = DATA.posterior(A, y[MASK > 0], max(noise_std, 1e-7))
    for fraction in (0.05, 0.3, 0.8):
        t = sde.t_min + fraction * (sde.t_max - sde.t_min)
        x = jnp.asarray(RNG.normal(size=(5, 4))) * jnp.sqrt(sde.alpha(t) ** 2 + sde.sigma(t) ** 2)
        expected = posterior.score_fn(sde)(x, t)
        found = eps_score(exact_denoiser, sde, MASK[None], y[None], noise_std)(x, t)
        bound = (1e-9 if noise_std else 1e-5) * np.max(np.abs(expected))
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_the_share_that_is_open():
    sde, t = VE(), jnp.asarray([0.2, 0.7])
    mask = jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
    level = np.asarray(sde.sigma(t)) ** 2
    np.testing.assert_allclose(open_share(sde, t, mask, 0.0), [[1, 0], [1, 0]])
    found = open_share(sde, t, mask, 0.1)
    np.testing.assert_allclose(found[:, 1] * level, 1 / (1 / level + 100), rtol=1e-9)
    np.testing.assert_allclose(found[:, 0], 1.0)


def network(params, x, c_noise, cond=None, key=None, train=False):
    """Any function of all its inputs; without a mask as with one of zeros."""
    shown = jnp.zeros_like(x) if cond is None else cond
    return jnp.tanh(x @ params + 0.3 * shown * x + jnp.sin(c_noise)[:, None])


def test_without_a_mask_it_is_the_models_score():
    """(5) at m = 0 is EDMPreconditioning; where everything is known and exact D is y."""
    sde, parameterization, params = VP(), EDMPreconditioning(sigma_data=0.7), jnp.asarray(RNG.normal(size=(4, 4)))
    bound = lambda x, c, cond=None: network(params, x, c, cond)  # noqa: E731
    x, t = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray([0.1, 0.4, 0.9])
    denoiser = denoiser_of(bound, sde, parameterization)
    plain = make_score_fn(bound, sde, parameterization)(x, t)
    found = eps_score(denoiser, sde, jnp.zeros((1, 4)), jnp.zeros((1, 4)), 0.0)(x, t)
    np.testing.assert_allclose(found, plain, rtol=1e-9)
    y = jnp.asarray(RNG.normal(size=(1, 4)))
    known = eps_score(denoiser, sde, jnp.ones((1, 4)), y, 0.0)(x, t)
    alpha, sigma = np.asarray(sde.alpha(t))[:, None], np.asarray(sde.sigma(t))[:, None]
    np.testing.assert_allclose(known, (alpha * y - x) / sigma**2, rtol=1e-9)


def test_random_masks():
    """A quarter of images has nothing known; every share of known positions occurs; boxes are boxes."""
    masks = np.asarray(RandomMasks()(sample_keys(jax.random.key(0), jnp.arange(2000)), (6, 5, 3)))
    assert masks.shape == (2000, 6, 5, 1) and set(np.unique(masks)) == {0.0, 1.0}
    share = masks.mean((1, 2, 3))
    assert 0.22 < np.mean(share == 0) < 0.30
    assert np.ptp(share) == 1.0
    points = np.asarray(RandomMasks()(sample_keys(jax.random.key(0), jnp.arange(4000)), (2,)))
    assert points.shape == (4000, 2)
    np.testing.assert_allclose(points.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose((points[:, 0] * points[:, 1]).mean(), 1 / 3, atol=0.03)  # E p²


CORRELATED = FullMixture(
    means=np.array([[-1.0, -1.0], [1.0, 1.0]]),
    covariances=np.array([[[0.2, 0.1], [0.1, 0.2]], [[0.3, -0.2], [-0.2, 0.3]]]),
    weights=np.array([0.4, 0.6]),
)


def trained(steps):
    """(apply, params) after training an MLP of two hidden layers by MaskedDenoising on CORRELATED."""
    from models import MLP

    mlp = MLP(features=64, num_layers=2, cond_dim=2)
    objective = MaskedDenoising(
        sde=VP(),
        parameterization=EDMPreconditioning(sigma_data=1.1),
        time_distribution=LogNormalTime(mean=-0.5, std=1.3),
    )

    def apply(params, x, c_noise, cond=None, key=None, train=False):
        return mlp.apply(params, x, c_noise, cond, train=train)

    zeros = jnp.zeros((1, 2), jnp.float32)
    params = mlp.init(jax.random.key(0), zeros, zeros[:, 0], zeros)
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    step = jax.jit(make_train_step(apply, objective, tx, ema=0.99))
    state = init_state(jax.random.key(1), params, tx)
    for k in range(steps):
        keys = sample_keys(jax.random.key(2), jnp.arange(256) + 256 * k)
        state, _ = step(state, {"x": CORRELATED.sample(keys).astype(jnp.float32)})
    return apply, state.ema_params


@pytest.mark.slow
def test_a_trained_network_has_the_exact_posterior():
    """y = x_1 = 0.3 exactly: x_2 is a mixture of two normals; samples have its mean and deviation."""
    with jax.numpy_dtype_promotion("standard"):
        apply, params = trained(4000)
    model = ScoreModel(
        sde=VP(), parameterization=EDMPreconditioning(sigma_data=1.1), network=apply, params=params, shape=(2,),
        sampler=Sampler(solver=Ancestral(), grid=PowerGrid(), num_steps=200, denoise=as_is),
    )  # fmt: skip
    observation = Observation(y=np.array([[0.3, 0.0]], np.float32), operator=Mask(mask=np.array([1.0, 0.0])))
    with jax.numpy_dtype_promotion("standard"):
        x = model.given(observation, EPS()).sample(jax.random.key(3), 4000)
    exact = CORRELATED.posterior(np.array([[1.0, 0.0]]), np.array([0.3]), 1e-6)
    truth = np.asarray(exact.sample(sample_keys(jax.random.key(4), jnp.arange(4000))))[:, 1]
    np.testing.assert_allclose(x[:, 0], 0.3, atol=0.03)
    assert abs(x[:, 1].mean() - truth.mean()) < 0.06 and abs(x[:, 1].std() - truth.std()) < 0.06
    free = model.sample(jax.random.key(5), 4000)  # and the network is a model of p(x)
    assert np.abs(free.mean(0) - 0.2).max() < 0.1


def test_training_lowers_the_loss_of_the_denoiser():
    """1,000 steps: the learnt posterior score is nearer to the exact one than the network's start, by a factor 3."""
    observation = Observation(y=np.array([[0.3, 0.0]]), operator=Mask(mask=np.array([1.0, 0.0])), noise_std=0.0)
    sde, parameterization, t = VP(), EDMPreconditioning(sigma_data=1.1), 0.3
    x = jnp.asarray(sde.alpha(t) * 0.3 + sde.sigma(t) * RNG.normal(size=(200, 2)), jnp.float32)
    exact = CORRELATED.posterior(np.array([[1.0, 0.0]]), np.array([0.3]), 1e-6).score_fn(sde)(x.astype(float), t)
    errors = []
    for steps in (1, 1000):
        with jax.numpy_dtype_promotion("standard"):
            apply, params = trained(steps)
            bound = lambda x, c, cond=None, apply=apply, params=params: apply(params, x, c, cond)  # noqa: E731
            found = EPS().model_score(bound, sde, parameterization, observation)(x, t)
        errors.append(float(jnp.sqrt(jnp.mean((found.astype(float) - exact) ** 2))))
    assert errors[1] < errors[0] / 3


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="expected a Mask of 0 and 1, got BoxDownsample"):
        EPS().check(Observation(y=jnp.zeros((1, 2, 2, 1)), operator=BoxDownsample()))
    with pytest.raises(ValueError, match="of 0 and 1"):
        EPS().check(Observation(y=jnp.zeros((1, 2)), operator=Mask(mask=np.array([0.5, 1.0]))))
    model = ScoreModel(sde=VP(), parameterization=EDMPreconditioning(), params=None, network=network, shape=(2,))
    noisy = Observation(y=jnp.zeros((1, 2)), operator=Mask(mask=np.ones(2)), noise_std=0.1)
    with pytest.raises(ValueError, match=r"expected noise_std 0 in model space, that of training, got 0.1"):
        model.given(noisy, EPS())
    with pytest.raises(TypeError, match="expected EDMPreconditioning, got PlainScore"):
        denoiser_of(network, VP(), PlainScore())
