"""Loss and gradient are finite at both ends of every process, whatever the data: float32, and bfloat16 in the network.

For every process × parameterization × weight: at t_min and at t_max, of events that are constant, tiny, huge or usual,
together and one alone. The network is the plainest that uses all its inputs; it casts what comes to its dtype.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VP, PredictNoise, SigmaSquared, dsm_loss, make_score_fn
from tests.contracts import CORE, DIAGONAL, PARAMETERIZATIONS, SDES, WEIGHTS
from tests.helpers import keys

DIMENSION = 64  # DiagonalVP's
PARAMS = {"w": jnp.eye(DIMENSION, dtype=jnp.float32) / 2, "b": jnp.full(DIMENSION, 0.1, jnp.float32)}
NORMAL = np.random.default_rng(0).normal(size=DIMENSION)
EVENTS = {
    "zeros": np.zeros(DIMENSION),
    "constant": np.full(DIMENSION, 255.0),
    "tiny": 1e-8 * NORMAL,
    "huge": 1e5 * NORMAL,
    "usual": NORMAL,
}


def network_of(dtype):
    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        h, c = x.astype(dtype), jnp.tanh(c_noise.astype(dtype))[:, None]
        out = jnp.tanh(h @ params["w"].astype(dtype) + c * params["b"].astype(dtype)[None]) * c + h
        return out.astype(x.dtype)

    return network


def is_finite(sde, parameterization, weight, dtype, x0, times):
    def of_params(params, x0):
        score_fn = make_score_fn(partial(network_of(dtype), params), sde, parameterization)
        return jnp.mean(dsm_loss(keys(len(x0)), score_fn, sde, x0, times, weight=weight))

    found = jax.value_and_grad(of_params)(PARAMS, x0)
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(found))


def everything(sde):
    """The five events at t_min, and again at t_max."""
    x0 = jnp.asarray(np.stack([*EVENTS.values(), *EVENTS.values()]), jnp.float32)
    ends = np.repeat([float(sde.t_min), float(sde.t_max)], len(EVENTS))
    return x0, jnp.asarray(ends, jnp.float32)


@pytest.mark.parametrize(
    ("name", "sde", "dtype"),
    [
        pytest.param(
            name,
            sde,
            dtype,
            id=f"{name}-{dtype.dtype}",
            marks=[] if name == "vp" or (name in CORE and dtype is jnp.float32) else pytest.mark.slow,
        )
        for dtype in (jnp.float32, jnp.bfloat16)
        for name, sde in (SDES | DIAGONAL).items()
    ],
)
def test_loss_and_gradient_are_finite_at_both_ends(name, sde, dtype):
    x0, times = everything(sde)
    wrong = [
        (parameterization, weight)
        for parameterization in PARAMETERIZATIONS
        for weight in WEIGHTS
        if not is_finite(sde, PARAMETERIZATIONS[parameterization], WEIGHTS[weight], dtype, x0, times)
    ]
    assert not wrong


def test_a_single_example_and_what_is_not_finite():
    """One example at each end; at t = 0, where σ is 0, the test above would have seen it."""
    x0, times = everything(VP())
    for k in (4, 9):
        assert is_finite(VP(), PredictNoise(), SigmaSquared(), jnp.float32, x0[k : k + 1], times[k : k + 1])
    assert not is_finite(VP(), PredictNoise(), SigmaSquared(), jnp.float32, x0, jnp.zeros_like(times))
    assert not is_finite(VP(), PredictNoise(), SigmaSquared(), jnp.float32, x0 * 1e30, times)
