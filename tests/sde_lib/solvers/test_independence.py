"""Sample i is a function of the seed and of i, in float32, for every sampler: whatever the batch and the devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import AdaptiveSDE, GaussianMixture, Sampler, sample_keys
from sde_lib.solvers.adaptive import redrawn
from tests.contracts import QUICK, SAMPLERS, SDES
from tests.helpers import close

MODES = GaussianMixture(
    means=jnp.asarray([[-1.0, 0.5, 0.2], [0.8, -0.3, 0.0]], jnp.float32),
    stds=jnp.asarray([[0.5, 0.4, 0.1], [0.4, 0.6, 0.9]], jnp.float32),
    weights=jnp.asarray([0.4, 0.6], jnp.float32),
)
SHORT = {
    name: sampler.replace(num_steps=12) if isinstance(sampler, Sampler) else sampler
    for name, sampler in SAMPLERS.items()
    if not getattr(sampler, "coupled", False)
} | {"adaptive_redrawn": AdaptiveSDE(rel_tol=0.1, noise=redrawn)}
IN_MAKE_TEST = ("pc_expected",)


@functools.partial(jax.jit, compiler_options=QUICK)
def draw(sampler, key, indices, sde):
    return sampler.with_nfe(sample_keys(key, indices), sde, MODES.score_fn(sde), (3,))


class InFloat32(type(SDES["vp"])):
    """VP whose prior is float32 where JAX has float64 too, as in these tests."""

    def prior_sample(self, keys, shape):
        return super().prior_sample(keys, shape).astype(jnp.float32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_MAKE_TEST else pytest.mark.slow) for name in SHORT]
)
def test_whatever_the_batch_and_the_devices(name):
    """Batches of 1, 7 and 64, any part of the numbers, and 1, 2, 4 and 8 devices: to 1e-5, with as many evaluations;
    but rounding may move a step of the adaptive ODE, whose error estimate is small."""
    spare = 24 if name == "probability_flow_ode" else 0
    sampler, sde, key = SHORT[name], InFloat32(t_min=1e-3), jax.random.key(7)
    x, evaluations = draw(sampler, key, jnp.arange(64), sde)
    assert x.dtype == np.float32 and np.unique(x, axis=0).shape == x.shape
    for indices in (slice(5, 6), slice(3, 10), slice(40, 47)):
        part, cost = draw(sampler, key, jnp.arange(64)[indices], sde)
        close(part, x[indices], 1e-5)
        np.testing.assert_allclose(cost, evaluations[indices], rtol=0, atol=spare)
    for count in (2, 4, 8):
        auto = jax.sharding.AxisType.Auto
        mesh = jax.make_mesh((count,), ("data",), axis_types=(auto,), devices=jax.devices()[:count])
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        shared, cost = draw(sampler, key, jax.device_put(jnp.arange(64), split), sde)
        assert len(shared.sharding.device_set) == count
        close(shared, x, 1e-5)
        np.testing.assert_allclose(cost, evaluations, rtol=0, atol=spare)
    assert not np.allclose(draw(sampler, jax.random.key(8), jnp.arange(64), sde)[0], x)
