"""The geometry against matrices written out, the image against functions known everywhere, the condition, no leak."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import MLP
from models.network import as_network
from sde_lib import (
    VP,
    AppliedNetwork,
    Augmentation,
    PredictNoise,
    dsm_loss,
    frozen_state,
    init_state,
    make_score_fn,
    make_train_step,
    sample_keys,
)
from sde_lib.training.augmentation import condition, cubic, interpolate
from sde_lib.training.step import augmented
from tests.helpers import close, keys, objective

AUGMENT = Augmentation(scale=1.5, stretch=1.3, shift=0.25)
NOTHING = np.zeros(8)
PARAMS = {"w": jnp.ones((), jnp.float32)}


def a(**values):
    out = NOTHING.copy()
    for name, value in values.items():
        out[int(name[1:])] = value
    return jnp.asarray(out)


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


LINEAR = {
    "flip": (a(a0=1), np.diag([-1, 1]), [1, 0, 0, 0, 0, 0, 0, 0, 0]),
    "upside down": (a(a1=1), np.diag([1, -1]), [0, 1, 0, 0, 0, 0, 0, 0, 0]),
    "scale": (a(a2=0.8), 1.5**0.8 * np.eye(2), [0, 0, 0.8, 0, 0, 0, 0, 0, 0]),
    "rotate": (a(a3=0.7), turn(-0.7), [0, 0, 0, np.cos(0.7) - 1, np.sin(0.7), 0, 0, 0, 0]),
    "stretch": (
        a(a4=0.4, a5=-1.2),
        turn(0.4) @ np.diag([1.3**-1.2, 1.3**1.2]) @ turn(-0.4),
        [0, 0, 0, 0, 0, -1.2 * np.cos(0.4), -1.2 * np.sin(0.4), 0, 0],
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_matrices_and_conditions_are_those_of_the_table(name):
    parameters, expected, told = LINEAR[name]
    matrix = AUGMENT.matrix(parameters, 6, 10)
    close(matrix[:2, :2], expected, 1e-12)
    np.testing.assert_allclose(matrix[:2, 2], 0, atol=1e-12)
    np.testing.assert_allclose(condition(parameters), told, atol=1e-12)


def test_a_shift_is_a_share_of_width_and_height():
    parameters = a(a6=0.4, a7=-2)
    np.testing.assert_allclose(AUGMENT.matrix(parameters, 6, 10)[:2], [[1, 0, 1], [0, 1, -3]], atol=1e-12)
    np.testing.assert_allclose(condition(parameters), [0, 0, 0, 0, 0, 0, 0, 0.4, -2])


def test_order_and_inverse():
    parameters = a(a0=1, a1=1, a2=0.3, a3=0.5, a4=-1, a5=0.7, a6=0.2, a7=0.1)
    single = [a(a6=0.2, a7=0.1), a(a4=-1, a5=0.7), a(a3=0.5), a(a2=0.3), a(a0=1, a1=1)]
    expected = np.linalg.multi_dot([AUGMENT.matrix(p, 6, 10) for p in single])
    close(AUGMENT.matrix(parameters, 6, 10), expected, 1e-12)
    np.testing.assert_allclose(AUGMENT.inverse(parameters, 6, 10) @ expected, np.eye(3), atol=1e-12)


def test_nothing_done_is_exact_and_told_as_zeros():
    """In float32, and with every transformation switched off by its draw."""
    x = jax.random.normal(jax.random.key(0), (20, 5, 7, 2), jnp.float32)
    augment = Augmentation(probability=0.0, flip=0.0)
    y, told = jax.jit(lambda keys, x: augment(keys, x))(sample_keys(jax.random.key(1), jnp.arange(20)), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(told, np.zeros((20, 9)))


def test_flips_quarter_turns_and_whole_pixels_are_exact():
    x = jax.random.normal(jax.random.key(0), (8, 8, 3), jnp.float32)
    transform = jax.jit(AUGMENT.transform)
    f32 = lambda parameters: transform(x, parameters.astype(jnp.float32))  # noqa: E731
    np.testing.assert_array_equal(f32(a(a0=1)), x[:, ::-1])
    np.testing.assert_array_equal(f32(a(a1=1)), x[::-1])
    np.testing.assert_array_equal(f32(a(a6=0.5))[:, 1:], x[:, :-1])  # to the right by a pixel
    np.testing.assert_array_equal(f32(a(a6=0.5))[:, 0], x[:, 0])  # what comes in is mirrored
    np.testing.assert_array_equal(f32(a(a7=-1))[:-2], x[2:])  # up by two
    quarter = f32(a(a3=np.pi / 2))  # by −90° from columns to rows, which run down: anticlockwise
    close(quarter, np.rot90(x), 1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_an_image_moves_as_its_matrix_says(name):
    """A smooth blob, known everywhere, so that y(u) = x(G⁻¹ u) can be computed without an image."""
    parameters = LINEAR[name][0]
    rows, columns = np.meshgrid(np.arange(40) - 19.5, np.arange(32) - 15.5, indexing="ij")
    blob = lambda u: np.exp(-(((u[0] - 3) / 5) ** 2) - ((u[1] + 2) / 3.5) ** 2)  # noqa: E731
    u = np.stack([columns, rows])
    found = AUGMENT.transform(jnp.asarray(blob(u))[..., None], parameters)[..., 0]
    moved = np.einsum("ij,jhw->ihw", np.linalg.inv(LINEAR[name][1]), u)
    inside = (np.abs(moved[0]) < 14) & (np.abs(moved[1]) < 18)
    np.testing.assert_allclose(found[inside], blob(moved)[inside], atol=0.006)
    assert np.abs(blob(u) - blob(moved)).max() > 0.1


def test_the_interpolation_is_exact_for_parabolas():
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(7.0), indexing="ij")
    f = lambda r, c: 1 + 2 * r - c + 0.3 * r**2 - 0.1 * r * c + 0.2 * c**2  # noqa: E731
    r, c = 2 + 0.5 * rows, 1.2 + 0.45 * columns
    found = interpolate(jnp.asarray(f(rows, columns))[..., None], jnp.asarray(r), jnp.asarray(c))
    close(found[..., 0], f(r, c), 1e-10)
    t = jnp.linspace(0, 1, 7)
    np.testing.assert_allclose(sum(cubic(t - k) for k in (-1, 0, 1, 2)), 1, atol=1e-12)


def test_draws_have_the_laws_of_the_table():
    n = 20_000
    draw = jax.vmap(Augmentation(probability=0.3).draw)(sample_keys(jax.random.key(3), jnp.arange(n)))
    draw = np.asarray(draw, np.float64)
    error = lambda p: 4 * np.sqrt(p * (1 - p) / n)  # noqa: E731
    for column, share in enumerate((0.5, 0.15, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)):
        assert abs((draw[:, column] != 0).mean() - share) < error(share), column
    np.testing.assert_array_equal(draw[:, 4] != 0, draw[:, 5] != 0)
    np.testing.assert_array_equal(draw[:, 6] != 0, draw[:, 7] != 0)
    both = (draw[:, 2] != 0) & (draw[:, 3] != 0)
    assert abs(both.mean() - 0.09) < error(0.09)
    for column, variance in ((2, 1), (3, np.pi**2 / 3), (4, np.pi**2 / 3), (5, 1), (6, 1), (7, 1)):
        values = draw[draw[:, column] != 0, column]
        assert abs(values.mean()) < 4 * np.sqrt(variance / len(values))
        np.testing.assert_allclose(values.var(), variance, rtol=0.08)


def test_an_image_depends_on_its_own_key():
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    keys = sample_keys(jax.random.key(1), jnp.arange(6))
    augment = jax.jit(lambda keys, x: AUGMENT(keys, x))
    whole = augment(keys, x)
    part = augment(keys[3:5], x[3:5])
    for all_of_them, some in zip(whole, part, strict=True):
        close(all_of_them[3:5], some, 1e-12)
    assert np.abs(augment(sample_keys(jax.random.key(2), jnp.arange(6)), x)[0] - whole[0]).max() > 0.1


def test_a_training_step_moves_the_images_and_tells_the_network():
    """The loss is that of what the augmentation makes of (key, example), under the vector, or the pair with it."""
    x, key = jax.random.normal(jax.random.key(0), (6, 4, 4, 1), jnp.float32), jax.random.key(5)
    augment = Augmentation(probability=0.9)

    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        label, vector = cond if isinstance(cond, tuple) else (jnp.zeros(6, jnp.int32), cond)
        return params["w"] * x + (vector @ jnp.arange(9, dtype=x.dtype) + label.astype(x.dtype))[:, None, None, None]

    def loss(keys, score_fn, sde, x0, t):
        score = score_fn(x0, jnp.full(x0.shape[0], 0.5, jnp.float32))
        return jnp.einsum("bhwc,hwc->b", score, jnp.arange(16, dtype=x.dtype).reshape(4, 4, 1))

    def given(x, cond):
        apply = lambda x, c_noise: network(PARAMS, x, c_noise, cond=cond)  # noqa: E731
        return jnp.mean(loss(None, make_score_fn(apply, VP(), PredictNoise()), VP(), x, None))

    @jax.jit
    def both(key):
        judge, label = objective(VP(), PredictNoise(), loss), jnp.arange(6)
        batches = [augmented(augment, key, batch) for batch in ({"x": x}, {"x": x, "label": label})]
        applied = AppliedNetwork(params=PARAMS, network=network)
        state, t = frozen_state(key, PARAMS), jnp.full(6, 0.5)
        found = [jnp.mean(judge(keys(6), t, applied, batch, state)) for batch in batches]
        moved, told = augment(sample_keys(jax.random.fold_in(key, 2), jnp.arange(6)), x)
        return found, [given(moved, told), given(moved, (label, told))], given(x, jnp.zeros_like(told))

    found, expected, plain = both(key)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found[0] - plain) > 0.1 and abs(found[1] - found[0]) > 0.1


@pytest.mark.slow
def test_what_is_learnt_under_zero_is_the_data_as_they_are():
    """Images whose left half is bright. Flipped ones, half of those trained on, do not leak into what is told nothing:
    the denoiser at high noise gives the mean image of the data, and without the condition that of the mixture."""
    x = np.full((64, 4, 4, 1), -1, np.float32)
    x[:, :, :2] = 1
    x = jnp.asarray(x + 0.1 * np.random.default_rng(0).normal(size=x.shape), jnp.float32)
    augment = Augmentation(probability=0.0)

    def told(keys, x):
        return augment(keys, x)

    def untold(keys, x):
        moved, vector = augment(keys, x)
        return moved, jnp.zeros_like(vector)

    sides = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name, how in (("told", told), ("untold", untold)):
            network = as_network(MLP(features=32, num_layers=2, cond_dim=9))
            params = network.init(jax.random.key(0), x[:1], jnp.zeros(1, jnp.float32), jnp.zeros((1, 9), jnp.float32))
            tx = optax.adam(1e-2)
            step = jax.jit(make_train_step(network, VP(), PredictNoise(), dsm_loss, tx, 0.99, augment=how))
            state = init_state(jax.random.key(1), params, tx)
            for _ in range(600):
                state, _ = step(state, {"x": x})
            t = jnp.full(64, 0.6, jnp.float32)
            alpha, sigma = VP().alpha(t[0]), VP().sigma(t[0])
            noise = jax.random.normal(jax.random.key(7), x.shape, jnp.float32)
            label = PredictNoise()(VP(), t).c_noise
            denoised = (sigma * noise - sigma * network(state.ema_params, sigma * noise, label)) / alpha
            sides[name] = float(jnp.mean(denoised[:, :, :2]) - jnp.mean(denoised[:, :, 2:])) / 2
    assert sides["told"] > 0.7 and abs(sides["untold"]) < 0.3, sides
