"""The door is wide enough: objectives unlike score matching, each in a few lines, through the one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_lib import VP, GaussianSDE, Objective, PredictNoise, dsm_loss, init_state, make_train_step
from sde_lib.node import Leaf, static
from tests.helpers import objective

pytestmark = pytest.mark.usefixtures("usual_promotion")
X = jax.random.normal(jax.random.key(9), (64, 3), jnp.float32)


def network(params, x, c_noise, *, cond=None, key=None, train=False):
    keep = jax.random.bernoulli(key, 0.9, x.shape) if train else jnp.ones(x.shape, bool)
    return jnp.where(keep, x @ params["w"] + c_noise[:, None] * params["b"][None], 0)


PARAMS = {"w": jnp.eye(3, dtype=jnp.float32), "b": jnp.zeros(3, jnp.float32)}


class Consistency(Objective):
    """Two times, a jvp through the network along t, and a target by the EMA: a flow map's loss."""

    def times(self, key, n):
        return jnp.sort(jax.random.uniform(key, (n, 2)), axis=1)

    def __call__(self, keys, t, network, batch, state):
        s, t, x = t[:, 0], t[:, 1], batch["x"]
        out, slope = jax.jvp(lambda t: network(x, t), (t,), (jnp.ones_like(t),))
        target = network.replace(params=state.ema_params)(x, s) + (t - s)[:, None] * slope
        return jnp.sum((out - jax.lax.stop_gradient(target)) ** 2, axis=1)


class Distillation(Objective):
    """A frozen teacher of the same network, at noisy x."""

    sde: GaussianSDE
    teacher: Leaf

    def times(self, key, n):
        return jax.random.uniform(key, (n,), minval=0.1)

    def __call__(self, keys, t, network, batch, state):
        x, _ = self.sde.perturb(keys, batch["x"], t)
        return jnp.mean((network(x, t) - network.replace(params=self.teacher)(x, t)) ** 2, axis=1)


class MaskedTokens(Objective):
    """Integer tokens [B, L] masked with probability t, and logits [B, L, V]: the masked negative ELBO, weight 1/t."""

    mask: int = static(3)

    def times(self, key, n):
        return (jax.random.uniform(key) + jnp.arange(n) / n) % 1.0 * 0.99 + 0.01

    def __call__(self, keys, t, network, batch, state):
        x = batch["x"]
        hidden = jax.vmap(lambda key, t: jax.random.uniform(key, x.shape[1:]) < t)(keys, t)
        logp = jax.nn.log_softmax(network(jnp.where(hidden, self.mask, x), t))
        nll = -jnp.take_along_axis(logp, x[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(hidden, nll, 0), axis=1) / t


class LearnedWeight(Objective):
    """Score matching with a learned uncertainty u(t) = a + b t (EDM2, eq. 16): ℓ/exp(u) + u."""

    inner: Objective

    def init(self, key, params):
        return {"network": params, "u": jnp.zeros(2, jnp.float32)}

    def network_params(self, params):
        return params["network"]

    def times(self, key, n):
        return self.inner.times(key, n)

    def __call__(self, keys, t, network, batch, state):
        u = state.params["u"][0] + state.params["u"][1] * t
        return self.inner(keys, t, network, batch, state) * jnp.exp(-u) + u


def ten_steps(objective, params=PARAMS, batch=None, network=network, accumulate=1):
    tx = optax.adam(1e-2)
    step = jax.jit(make_train_step(network, objective, tx, ema=0.9, accumulate=accumulate))
    state = init_state(jax.random.key(1), objective.init(jax.random.key(2), params), tx)
    values = []
    for _ in range(10):
        state, metrics = step(state, {"x": X} if batch is None else batch)
        values.append(float(metrics["loss"]))
    assert np.all(np.isfinite(values)) and int(state.step) == 10 and metrics["bad_examples"] == 0
    return state, values


def test_two_times_and_a_jvp_through_the_network():
    """The dropout masks of the two calls are the same, so equal times and parameters give a loss of 0."""
    ten_steps(Consistency())
    equal = type("Equal", (Consistency,), {"times": lambda self, key, n: jnp.full((n, 2), 0.5)})()
    _, values = ten_steps(equal)
    assert values[0] == 0  # parameters and EMA agree before the first update


def test_a_frozen_teacher():
    """The student moves to the teacher, which stays."""
    teacher = {"w": 0.9 * jnp.eye(3, dtype=jnp.float32), "b": jnp.full(3, 0.05, jnp.float32)}
    _, values = ten_steps(Distillation(sde=VP(), teacher=teacher))
    assert values[-1] < 0.5 * values[0]
    _, values = ten_steps(Distillation(sde=VP(), teacher=PARAMS))
    assert values[0] == 0


def test_integer_tokens_and_logits():
    """Tokens of one value: the bound falls from log 3 per token toward 0; in parts it is the same bound."""
    tokens = jnp.full((64, 5), 2)

    def logits(params, x, c_noise, *, cond=None, key=None, train=False):
        return jnp.broadcast_to(params["b"], (*x.shape, 3))

    _, values = ten_steps(MaskedTokens(), batch={"x": tokens}, network=logits)
    assert abs(values[0] / (5 * np.log(3)) - 1) < 0.15 and values[-1] < values[0]
    _, same = ten_steps(MaskedTokens(), batch={"x": tokens}, network=logits, accumulate=4)
    np.testing.assert_allclose(same, values, rtol=1e-5)


def test_a_learned_weight():
    """u goes to the logarithm of the loss: at a constant loss L, ℓ/e^u + u is least at u = log L."""
    inner = objective(VP(), PredictNoise(), dsm_loss)
    state, _ = ten_steps(LearnedWeight(inner=inner))
    assert set(state.params) == {"network", "u"} and np.all(np.abs(state.params["u"]) > 0)
    assert not np.array_equal(state.params["network"]["w"], PARAMS["w"])
    assert not np.array_equal(state.ema_params["u"], state.params["u"])
