import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_lib import VP, PredictNoise, adam, dsm_loss, gaussian, init_state, make_eval_step, make_train_step, sample_keys
from sde_lib.training import batch_loss, ema_rate, repeat

pytestmark = pytest.mark.usefixtures("usual_promotion")


@pytest.fixture
def usual_promotion():
    """optax.adam raises a Python float to an integer array's power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def network(params, x, c_noise, *, cond=None, key=None, train=False):
    """Linear in x with a scale that a few powers of c_noise choose: can be exact for normal data."""
    features = jnp.stack([c_noise**i for i in range(4)], axis=-1)
    return x * (features @ params["w"])[:, None]


PARAMS = {"w": jnp.asarray([0.5, 0.1, 0.0, 0.0], jnp.float32)}
X = gaussian(jnp.zeros(3, jnp.float32), jnp.full(3, 0.6, jnp.float32)).sample(
    sample_keys(jax.random.key(9), jnp.arange(64))
)


def make(tx, ema=0.9):
    return make_train_step(network, VP(), PredictNoise(), dsm_loss, tx, ema)


def fresh(tx):
    return init_state(jax.random.key(1), jax.tree.map(jnp.copy, PARAMS), tx)


def test_one_step_is_the_formula():
    """θ − lr ∇loss with the randomness of (key, step), and r θ_EMA + (1 − r) θ with the warm-up's r."""
    tx = optax.sgd(0.1)
    state, metrics = make(tx)(fresh(tx), {"x": X})
    arguments = (VP(), PredictNoise(), dsm_loss, jax.random.fold_in(jax.random.key(1), 0), {"x": X}, True)
    value, grads = jax.value_and_grad(lambda p: batch_loss(network, p, *arguments))(PARAMS)
    expected = PARAMS["w"] - 0.1 * grads["w"]
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(grads["w"]), rtol=1e-6)
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-6)
    np.testing.assert_allclose(state.ema_params["w"], 0.1 * PARAMS["w"] + 0.9 * expected, rtol=1e-5)
    assert int(state.step) == 1


def test_ema_warms_up():
    rates = [float(ema_rate(jnp.asarray(k), 0.9)) for k in (0, 1, 9, 79, 80, 1000)]
    np.testing.assert_allclose(rates, [0.1, 2 / 11, 10 / 19, 80 / 89, 0.9, 0.9], rtol=1e-6)


def test_several_steps_in_one_call_are_the_same_steps():
    tx = adam(learning_rate=1e-2, warmup_steps=2)
    step, state = jax.jit(make(tx)), fresh(tx)
    batches = jnp.stack([X + i for i in range(3)])
    for i in range(3):
        state, metrics = step(state, {"x": batches[i]})
    together, stacked = jax.jit(repeat(make(tx)))(fresh(tx), {"x": batches})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.replace(key=None),
        together.replace(key=None),
    )
    assert stacked["loss"].shape == (3,)
    np.testing.assert_allclose(stacked["loss"][-1], metrics["loss"], rtol=1e-5)


def test_donation_and_one_trace():
    """Parameters and their EMA share no buffer, so the state can be donated; the step never compiles again."""
    tx, traces = adam(), []
    inner = make(tx)

    def counted(state, batch):
        traces.append(0)
        return inner(state, batch)

    step, state = jax.jit(counted, donate_argnums=0), fresh(tx)
    for _ in range(3):
        state, _ = step(state, {"x": X})
    assert len(traces) == 1 and np.all(np.isfinite(state.params["w"]))


def test_training_finds_the_exact_score():
    """500 steps bring the loss to its analytic minimum, ½ d E_t[α² s²/(α² s² + σ²)], within 3 %."""
    tx = adam(learning_rate=3e-2, warmup_steps=10, decay_steps=500)
    step, state = jax.jit(make(tx, 0.95)), fresh(tx)
    data = gaussian(jnp.zeros(3, jnp.float32), jnp.full(3, 0.6, jnp.float32))
    x = data.sample(sample_keys(jax.random.key(2), jnp.arange(2048)))
    for _ in range(500):
        state, _ = step(state, {"x": x})
    t = jnp.linspace(1e-5, 1.0, 4001)
    signal = (VP().alpha(t) * 0.6) ** 2
    minimum = 1.5 * float(jnp.mean(signal / (signal + VP().sigma(t) ** 2)))
    evaluate = jax.jit(make_eval_step(network, VP(), PredictNoise(), dsm_loss))
    test = data.sample(sample_keys(jax.random.key(3), jnp.arange(20_000)))
    value, count = evaluate(state.ema_params, jax.random.key(4), {"x": test, "mask": jnp.ones(20_000, jnp.float32)})
    assert count == 20_000
    assert abs(float(value) / minimum - 1) < 0.03


def test_padding_does_not_count():
    evaluate = make_eval_step(network, VP(), PredictNoise(), dsm_loss)
    mask = jnp.asarray([1.0] * 60 + [0.0] * 4, jnp.float32)
    a, n = evaluate(PARAMS, jax.random.key(0), {"x": X, "mask": mask})
    b, _ = evaluate(PARAMS, jax.random.key(0), {"x": X.at[60:].set(100.0), "mask": mask})
    assert n == 60
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_learning_rate_and_clipping():
    """Linear warm-up, half a cosine, and a clip at the global norm."""
    tx = adam(learning_rate=1.0, warmup_steps=10, decay_steps=110, b1=0.0, b2=0.0)
    params = {"w": jnp.zeros(4)}
    state, sizes = tx.init(params), []
    for _ in range(110):
        updates, state = tx.update({"w": jnp.full(4, 7.0)}, state, params)
        sizes.append(-float(updates["w"][0]))  # b1 = b2 = 0: the update is the learning rate times the sign
    np.testing.assert_allclose(sizes[:10], np.arange(10) / 10, atol=1e-6)
    np.testing.assert_allclose(sizes[10:], 0.5 + 0.5 * np.cos(np.pi * np.arange(100) / 100), atol=1e-5)
    short = adam(learning_rate=1.0, warmup_steps=100, decay_steps=4, b1=0.0, b2=0.0)
    state, sizes = short.init(params), []
    for _ in range(4):
        updates, state = short.update({"w": jnp.full(4, 7.0)}, state, params)
        sizes.append(-float(updates["w"][0]))
    np.testing.assert_allclose(sizes, [0.0, 0.5, 1.0, 0.5], atol=1e-6)
    constant = adam(learning_rate=0.5, warmup_steps=0, b1=0.0, b2=0.0)
    updates, _ = constant.update({"w": jnp.full(4, 7.0)}, constant.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5 * np.ones(4), rtol=1e-6)
    clipped = adam(learning_rate=1.0, warmup_steps=1, clip_norm=2.0, b1=0.0, b2=0.9, eps=1.0)
    state = clipped.init(params)
    for _ in range(2):
        updates, state = clipped.update({"w": jnp.full(4, 7.0)}, state, params)
    np.testing.assert_allclose(updates["w"], -0.5 * jnp.ones(4), rtol=1e-5)  # g = 1 of 7, √v̂ = 1, eps = 1
