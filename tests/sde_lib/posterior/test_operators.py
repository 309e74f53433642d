"""Operators: linear, with the adjoint that jax derives, and with the values of a plain writing in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.posterior import (
    Blur,
    BoxDownsample,
    ColorMix,
    Decimate,
    FourierMask,
    Mask,
    Observation,
    Project,
    Radon,
    adjoint,
)

RNG = np.random.default_rng(0)
KERNEL1, KERNEL2 = RNG.normal(size=5), RNG.normal(size=(3, 5))
FOURIER = RNG.uniform(size=(6, 4)) < 0.5
MATRIX = RNG.normal(size=(3, 12))

OPERATORS = {
    "mask": (Mask(mask=RNG.uniform(size=(4, 6, 1)) < 0.5), (4, 6, 3)),
    "mask of signals": (Mask(mask=RNG.uniform(size=(9, 2)) < 0.5), (9, 2)),
    "mask of points": (Mask(mask=np.array([1.0, 0.0, 1.0])), (3,)),
    "mask by row": (Mask(mask=RNG.uniform(size=(2, 4, 1)) < 0.5), (4, 1)),
    "color": (ColorMix(), (4, 5, 3)),
    "color of volumes": (ColorMix(weights=(0.5, -2.0)), (2, 3, 4, 2)),
    "box": (BoxDownsample(size=2), (4, 6, 3)),
    "box of signals": (BoxDownsample(size=3), (9, 2)),
    "box of volumes": (BoxDownsample(size=2), (4, 2, 6, 1)),
    "decimate": (Decimate(step=3), (10, 2)),
    "blur": (Blur(kernel=KERNEL2), (6, 7, 2)),
    "blur of signals": (Blur(kernel=KERNEL1), (9, 2)),
    "fourier": (FourierMask(mask=FOURIER), (6, 4, 2)),
    "radon": (Radon(angles=(0.0, 30.0, 90.0, 135.0)), (7, 7, 2)),
    "project": (Project(matrix=MATRIX), (3, 4)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_linear_and_adjoint(name):
    """A(a x + z) = a A x + A z, and ⟨A x, u⟩ = ⟨x, Aᵀ u⟩ for each row alone."""
    operator, shape = OPERATORS[name]
    x, z = (jnp.asarray(RNG.normal(size=(2, *shape))) for _ in range(2))
    u = jnp.asarray(RNG.normal(size=jax.eval_shape(operator, x).shape))
    together = jax.jit(lambda x, z, u: (operator(x), operator(z), operator(2.5 * x + z), adjoint(operator, x)(u)))
    y, other, both, back = together(x, z, u)
    np.testing.assert_allclose(both, 2.5 * y + other, rtol=0, atol=1e-12)
    rows = lambda a, b: np.sum(np.asarray(a * b).reshape(2, -1), axis=1)  # noqa: E731
    scale = np.sqrt(rows(y, y) * rows(u, u))
    assert np.all(np.abs(rows(y, u) - rows(x, back)) < 1e-12 * scale) and np.all(np.abs(rows(y, u)) > 1e-6)
    assert jax.eval_shape(operator, jnp.asarray(x, jnp.float32)).dtype == jnp.float32


def test_values():
    x = RNG.normal(size=(2, 6, 4, 3))
    gray = ColorMix()(jnp.asarray(x))
    np.testing.assert_allclose(gray[..., 0], 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2], rtol=1e-12)
    small = BoxDownsample(size=2)(jnp.asarray(x))
    np.testing.assert_allclose(small[1, 2, 1], x[1, 4:6, 2:4].mean((0, 1)), rtol=1e-12)
    y = np.asarray(FourierMask(mask=np.ones((6, 4)))(jnp.asarray(x)))
    transformed = np.fft.fft2(x, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(y, np.concatenate([transformed.real, transformed.imag], -1), rtol=0, atol=1e-12)
    signal = RNG.normal(size=(1, 9, 1))
    blurred = Blur(kernel=KERNEL1)(jnp.asarray(signal))
    np.testing.assert_allclose(blurred[0, :, 0], np.convolve(signal[0, :, 0], KERNEL1, "same"), rtol=1e-12)
    np.testing.assert_array_equal(Decimate(step=2)(jnp.asarray(signal))[0, :, 0], signal[0, ::2, 0])


def test_lines():
    """At 0 and 90 degrees the sums of columns and rows; the total of all lines is that of the image; a disk looks the
    same from all sides."""
    x = jnp.asarray(RNG.normal(size=(1, 8, 8, 1)))
    y = Radon(angles=(0.0, 90.0))(x)
    np.testing.assert_allclose(y[0, :, 0, 0], x[0, :, :, 0].sum(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(y[0, :, 1, 0], x[0, :, :, 0].sum(1), rtol=1e-12, atol=1e-12)
    places = np.arange(33) - 16.0
    bump = jnp.asarray(np.exp(-(places[:, None] ** 2 + places[None] ** 2) / 18))[None, ..., None]
    lines = np.asarray(Radon(angles=(0.0, 17.0, 45.0, 100.0))(bump))[0, :, :, 0]
    expected = np.exp(-(places**2) / 18) * np.sqrt(18 * np.pi)
    assert np.max(np.abs(lines - expected[:, None])) < 0.01 * np.max(expected)
    shifted = jnp.roll(bump, 5, axis=2)  # along columns: the line at angle θ moves by 5 cos θ
    peaks = np.asarray(Radon(angles=(0.0, 60.0, 120.0))(shifted))[0, :, :, 0].argmax(0) - 16
    np.testing.assert_allclose(peaks, [5, 2.5, -2.5], atol=0.6)


@pytest.mark.parametrize(
    "operator, shape, message",
    [
        (Mask(mask=np.ones((4, 4, 1))), (4, 5, 3), r"Mask: expected events that a mask of shape \(4, 4, 1\) fits"),
        (ColorMix(), (4, 4, 1), "ColorMix: expected 3 channels"),
        (BoxDownsample(size=3), (4, 6, 1), "BoxDownsample: expected sizes divisible by 3"),
        (Blur(kernel=KERNEL1), (4, 4, 1), "Blur: expected 1 axes of space"),
        (FourierMask(mask=FOURIER), (4, 6, 1), "FourierMask: expected space of the mask's shape"),
        (Radon(), (4, 6, 1), "Radon: expected square images"),
        (Project(matrix=MATRIX), (5,), "Project: expected events of 12 numbers"),
        (Decimate(step=2), (4, 6, 1), "Decimate: expected signals"),
    ],
)
def test_what_does_not_fit(operator, shape, message):
    with pytest.raises(ValueError, match=message):
        operator(jnp.zeros((1, *shape)))


def test_an_observation_in_the_units_of_the_data():
    """x = 2 x_data − 1: y and σ_y are carried along, for an operator whose A 1 is not 1."""
    data = jnp.asarray(RNG.uniform(size=(2, 6, 7, 2)))
    operator = Blur(kernel=KERNEL2)
    observed = Observation(y=operator(data), operator=operator, noise_std=0.3)
    found = observed.in_model_space(2.0, -1.0, (6, 7, 2))
    np.testing.assert_allclose(found.y, operator(2 * data - 1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.noise_std, 0.6)
    with pytest.raises(ValueError, match="one slope"):
        observed.in_model_space(jnp.ones((2,)), 0.0, (6, 7, 2))
    with pytest.raises(ValueError, match=r"the operator makes \(2, 6, 7, 2\), but y has shape \(2, 5\)"):
        Observation(y=jnp.zeros((2, 5)), operator=operator).minus(operator(data))
    assert jax.tree.leaves(observed)
