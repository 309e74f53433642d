"""TokenModel: samples, bounds and infilling of the exact network of the enumerated chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.discrete import HIDDEN, AnyOrder, MaskedProcess, TokenModel, TokenSampler, UniformProcess
from tests.sde_lib.discrete.enumerated import SEQUENCES, L, P, V, exact_network

MASKED = MaskedProcess(num_tokens=V)


class Shifted:
    """A transform to tokens: data are 10, 11 and 12."""

    def forward(self, x):
        return np.asarray(x) - 10

    def inverse(self, x):
        return np.asarray(x) + 10


def model(process=MASKED, **options):
    sampler = TokenSampler(solver=AnyOrder(), num_steps=L) if process is MASKED else TokenSampler(num_steps=6)
    options = {"sampler": sampler, "network": exact_network(process), "shape": (L,), "transform": Shifted()} | options
    return TokenModel(sde=process, **options)


def test_bits_per_token_are_log_p_and_in_the_units_of_the_data():
    n = 60
    x = np.tile(SEQUENCES, (n, 1)) + 10
    bits, error = model().bits_per_token(jax.random.key(0), x, num_times=16)
    bits = np.asarray(bits).reshape(n, -1)
    apart = (bits.mean(0) + np.log2(P) / L) / (bits.std(0) / np.sqrt(n))
    assert np.all(np.abs(apart) < 5.5) and np.all(np.asarray(error) >= 0)


def test_a_data_set_in_parts_has_the_bounds_of_the_whole():
    one, key, x = model(), jax.random.key(1), SEQUENCES + 10
    whole = one.elbo(key, x, num_times=4).value
    np.testing.assert_allclose(one.elbo(key, x[20:], num_times=4, first=20).value, whole[20:], rtol=1e-10)
    assert one.elbo(key, x[:0]).value.shape == (0,)


def test_samples_and_infilling():
    one, key = model(), jax.random.key(2)
    x = one.sample(key, 12)
    assert x.shape == (12, L) and set(np.unique(x)) <= {10, 11, 12}
    np.testing.assert_array_equal(one.to_data(one.sample_indices(key, jnp.arange(5, 17)))[:7], x[5:])
    rows = np.array([[0, HIDDEN, HIDDEN], [HIDDEN, 2, 1]])
    filled = one.infill(key, rows, n=400)
    assert filled.shape == (2, 400, L) and np.all(filled[0, :, 0] == 10) and np.all(filled[1, :, 1:] == [12, 11])
    np.testing.assert_array_equal(one.infill(key, rows, n=3), filled[:, :3])
    share = np.mean(filled[0, :, 1] == 10)
    assert abs(share - 0.7) < 4.5 * np.sqrt(0.21 / 400)


def test_what_does_not_fit_is_refused():
    one, key = model(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"infill: expected tokens from −1 \(hidden\) to 2, got 0 to 3"):
        one.infill(key, np.array([[0, 1, 3]]))
    with pytest.raises(ValueError, match=r"expected data of shape \[B, 3\], got \(2, 4\)"):
        one.bits_per_token(key, np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="a TokenModel is not conditioned"):
        one.sample_indices(key, jnp.arange(2), cond=jnp.zeros(2))
    with pytest.raises(TypeError, match="AnyOrder requires mask"):
        model(UniformProcess(num_tokens=V), sampler=TokenSampler(solver=AnyOrder())).sample(key, 1)
    with pytest.raises(ValueError, match="expected a whole number n >= 0"):
        one.sample(key, -1)
