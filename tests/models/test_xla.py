"""The workarounds for XLA compute what they replace."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import xla


def test_even_and_odd_and_their_gradient():
    """The gradient is one concatenation; that of two indexings would be a sum."""
    x = jnp.arange(24.0).reshape(2, 4, 3)
    for axis, even, odd in ((1, x[:, ::2], x[:, 1::2]), (0, x[:1], x[1:])):
        np.testing.assert_array_equal(xla.even_and_odd(x, axis)[0], even)
        np.testing.assert_array_equal(xla.even_and_odd(x, axis)[1], odd)
    (gradient,) = jax.linear_transpose(lambda x: xla.even_and_odd(x, 1), x)((x[:, ::2], 2 * x[:, 1::2]))
    np.testing.assert_array_equal(gradient, x * jnp.array([1.0, 2.0, 1.0, 2.0])[None, :, None])
    transposed = jax.make_jaxpr(jax.linear_transpose(lambda x: xla.even_and_odd(x, 1), x))((x[:, ::2], x[:, 1::2]))
    names = [equation.primitive.name for equation in transposed.eqns]
    assert names.count("concatenate") == 1 and "add_any" not in names


@pytest.mark.parametrize(
    ("key", "x", "y", "expected"),
    [
        ((0, 0), 0, 0, (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1, 2**32 - 1), 2**32 - 1, 2**32 - 1, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), 0x243F6A88, 0x85A308D3, (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_has_its_published_values(key, x, y, expected):
    """Salmon et al. 2011: the known answers that their library, Random123, comes with."""
    found = xla.threefry2x32(jnp.array(key, jnp.uint32), jnp.array([x], jnp.uint32), jnp.array([y], jnp.uint32))
    assert tuple(int(word[0]) for word in found) == expected


def test_the_gradient_that_is_written_once_is_the_gradient():
    """Of every order and mode, under vmap, jit and remat, and of what is not a number."""
    x, v = jnp.arange(1.0, 7).reshape(2, 3), jnp.linspace(-1.0, 1, 6).reshape(2, 3)
    plain, written = lambda x: jnp.sum(jnp.sin(x) ** 3), lambda x: jnp.sum(jnp.sin(xla.written_once(x)) ** 3)
    modes = [
        jax.grad,
        lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
        lambda f: jax.vmap(jax.grad(f)),
        lambda f: lambda x: jax.jvp(f, (x,), (v,)),
        lambda f: lambda x: jax.jvp(jax.grad(f), (x,), (v,)),
        lambda f: jax.grad(lambda x: jax.jvp(f, (x,), (v,))[1]),
        lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2)),
    ]
    for mode in modes:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), mode(written)(x), mode(plain)(x))
    assert np.isnan(jax.grad(written)(x.at[0, 0].set(jnp.nan))).any()


def test_the_gradient_of_a_block_is_a_branch_of_its_own():
    """Which XLA fuses with nothing: as many in the compiled program as there are uses."""
    f = lambda x: jnp.sum(jnp.sin(xla.written_once(jnp.sin(xla.written_once(x)))))  # noqa: E731
    text = jax.jit(jax.grad(f)).lower(jnp.ones((4, 5))).compile().as_text()
    assert len(re.findall(r" conditional\(", text)) == 2
