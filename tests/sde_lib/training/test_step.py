from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_lib import (
    VP,
    AppliedNetwork,
    PredictNoise,
    PredictPathScore,
    adam,
    dsm_loss,
    frozen_state,
    gaussian,
    init_state,
    make_eval_step,
    make_train_step,
    sample_keys,
    sliced_loss,
    transition_loss,
)
from sde_lib.losses import UniformTime
from sde_lib.parameterization import ScaledTime
from sde_lib.training.objective import draws
from sde_lib.training.state import ema_rate
from sde_lib.training.step import scan_steps
from sde_lib.training.xla import clip_by_global_norm, convolution_options, global_norm, jit
from tests.contracts import DoubleWell
from tests.helpers import objective

pytestmark = pytest.mark.usefixtures("usual_promotion")


def network(params, x, c_noise, *, cond=None, key=None, train=False):
    """Linear in x with a scale that a few powers of c_noise choose: can be exact for normal data."""
    features = jnp.stack([c_noise**i for i in range(4)], axis=-1)
    return x * (features @ params["w"])[:, None]


PARAMS = {"w": jnp.asarray([0.5, 0.1, 0.0, 0.0], jnp.float32)}
X = gaussian(jnp.zeros(3, jnp.float32), jnp.full(3, 0.6, jnp.float32)).sample(
    sample_keys(jax.random.key(9), jnp.arange(64))
)


NOISE = objective(VP(), PredictNoise(), dsm_loss)


def make(tx, ema=0.9, **options):
    return make_train_step(network, NOISE, tx, ema, **options)


def losses_of(objective, params, batch, network=network, key=jax.random.key(1), step=0):
    """(losses, times) of the rows of a batch, drawn as the step of that number draws them."""
    keys, t, _ = draws(objective, jax.random.fold_in(key, step), len(batch["x"]))
    applied = AppliedNetwork(params=params, network=network)
    return objective(keys, t, applied, batch, frozen_state(key, params)), t


def fresh(tx):
    return init_state(jax.random.key(1), jax.tree.map(jnp.copy, PARAMS), tx)


def test_one_step_is_the_formula():
    """θ − lr ∇loss with the randomness of (key, step), and r θ_EMA + (1 − r) θ with the warm-up's r."""
    tx = optax.sgd(0.1)
    state, metrics = jax.jit(make(tx))(fresh(tx), {"x": X})
    value, grads = jax.jit(jax.value_and_grad(lambda p: jnp.mean(losses_of(NOISE, p, {"x": X})[0])))(PARAMS)
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
    together, stacked = jax.jit(scan_steps(make(tx)))(fresh(tx), {"x": batches})
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
    evaluate = jax.jit(make_eval_step(network, NOISE))
    test = data.sample(sample_keys(jax.random.key(3), jnp.arange(20_000)))
    value, count = evaluate(
        frozen_state(state.key, state.ema_params), jax.random.key(4), {"x": test, "mask": jnp.ones(20_000, jnp.float32)}
    )
    assert count == 20_000
    assert abs(float(value) / minimum - 1) < 0.03


def test_padding_does_not_count():
    evaluate, state = make_eval_step(network, NOISE), frozen_state(jax.random.key(1), PARAMS)
    mask = jnp.asarray([1.0] * 60 + [0.0] * 4, jnp.float32)
    a, n = evaluate(state, jax.random.key(0), {"x": X, "mask": mask})
    b, _ = evaluate(state, jax.random.key(0), {"x": X.at[60:].set(100.0), "mask": mask})
    assert n == 60
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_learning_rate_and_clipping():
    """Linear warm-up, half a cosine, and a clip at the global norm."""
    tx = adam(learning_rate=1.0, warmup_steps=10, decay_steps=110, b1=0.0, b2=0.0)
    params = {"w": jnp.zeros(4)}
    state, sizes, update = tx.init(params), [], jax.jit(tx.update)
    for _ in range(110):
        updates, state = update({"w": jnp.full(4, 7.0)}, state, params)
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


def test_the_global_norm_and_the_clip_are_those_of_optax():
    """Of leaves of every shape, also of several dtypes, below and above the bound, of zeros and of what is no number;
    and one sum in the compiled program, however many leaves there are."""
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": -jnp.ones(5), "c": jnp.asarray(2.0), "d": jnp.zeros((0, 4))}
    assert len(set(jax.tree.leaves(jax.tree.map(lambda leaf: leaf.dtype, tree)))) == 1
    size = float(np.sqrt(55 + 5 + 4))
    mixed = tree | {"b": -jnp.ones(5, jnp.bfloat16)}
    for leaves in (tree, mixed, tree | {"c": jnp.asarray(2.0 + 0j)}):
        np.testing.assert_allclose(global_norm(leaves), size, rtol=1e-6)
    bad = tree | {"c": jnp.asarray(jnp.nan)}

    @jax.jit
    def clipped(leaves):
        """(ours, theirs) for a bound below the norm and one above it."""
        both = [[clip(bound * size) for clip in (clip_by_global_norm, optax.clip_by_global_norm)] for bound in (0.5, 2)]
        return [[tx.update(leaves, tx.init(leaves))[0] for tx in pair] for pair in both]

    for leaves in (tree, mixed, bad, jax.tree.map(jnp.zeros_like, tree)):
        for ours, theirs in clipped(leaves):
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(
                    a.astype(jnp.float32), b.astype(jnp.float32), rtol=1e-2 if a.itemsize == 2 else 1e-6
                )
    text = jax.jit(global_norm).lower({str(i): jnp.ones(100 + i) for i in range(20)}).compile().as_text()
    assert text.count(" reduce(") + text.count(" reduce-window(") < 5


def broken_network(params, x, c_noise, *, cond=None, key=None, train=False):
    """Not a number where c_noise = 999 t is above 800 and the third coordinate is positive."""
    wrong = (c_noise[:, None] > 800) & (x[:, 2:] > 0)
    return jnp.where(wrong, jnp.nan, network(params, x, c_noise / 999))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_it_says_where_the_loss_is_not_finite(accumulate):
    """How many examples, and their range of t: those that the step drew for them."""
    spoiled = objective(VP(), PredictNoise(c_noise=ScaledTime(scale=999.0)), dsm_loss)
    losses, t = losses_of(spoiled, PARAMS, {"x": X}, broken_network)
    bad = np.isnan(losses)
    tx = optax.sgd(0.1)
    _, metrics = jax.jit(make_train_step(broken_network, spoiled, tx, accumulate=accumulate))(fresh(tx), {"x": X})
    assert 1 < np.sum(bad) < 20 and metrics["bad_examples"] == np.sum(bad) and np.isnan(metrics["loss"])
    np.testing.assert_allclose([metrics["bad_t_low"], metrics["bad_t_high"]], [np.min(t[bad]), np.max(t[bad])])
    _, metrics = jax.jit(make(tx))(fresh(tx), {"x": X})
    assert metrics["bad_examples"] == 0 and metrics["bad_t_low"] == np.min(t) and metrics["bad_t_high"] == np.max(t)


def test_a_step_that_is_not_finite_is_skipped():
    """Nothing but the step's number changes, and the next step is as if it had not been."""
    tx = adam(warmup_steps=0)
    step = jax.jit(make(tx, 0.9999, skip=True))
    before, _ = step(fresh(tx), {"x": X})
    after, metrics = step(before, {"x": X.at[3].set(1e30)})
    assert metrics["bad_examples"] == 1 and int(after.step) == 2
    kept, same = (jax.tree.leaves(s.replace(key=None, step=None)) for s in (before, after))
    assert all(np.array_equal(a, b) for a, b in zip(kept, same, strict=True))
    usual = jax.jit(make(tx, 0.9999))
    expected, _ = usual(before.replace(step=before.step + 1), {"x": X})
    found, _ = step(after, {"x": X})
    np.testing.assert_array_equal(found.params["w"], expected.params["w"])


CASES = {
    "dsm": (NOISE, {}),
    "dsm, dequantized": (NOISE.replace(bin_width=0.5), {}),
    "transition": (objective(DoubleWell(), PredictPathScore(), partial(transition_loss, num_steps=4)), {}),
    "sliced": (objective(VP(), PredictNoise(), partial(sliced_loss, num_steps=4), UniformTime()), {}),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "sliced")) for n in CASES])
def test_a_batch_in_parts_is_the_batch_at_once(name):
    """Loss, gradient and what comes of them to 1e-6, with labels and padding; and the parts are processed in turn."""
    seen, judge = [], CASES[name][0]

    def watched(params, x, c_noise, *, cond=None, key=None, train=False):
        seen.append((x.shape, cond.shape, train))
        return network(params, x, c_noise) * cond[:, None] + (0.0 if key is None else 0.0 * jax.random.uniform(key))

    tx, batch = optax.sgd(0.1), {"x": X, "label": jnp.linspace(-1, 2, 64, dtype=jnp.float32)}
    batch["mask"] = (jnp.arange(64) % 7 > 0).astype(jnp.float32)
    once, metrics = jax.jit(make_train_step(watched, judge, tx, 0.9))(fresh(tx), batch)
    assert {shapes[0] for shapes in seen} == {(64, 3)}
    scale = np.max(np.abs(once.params["w"] - PARAMS["w"]))
    for unroll in (True, False) if name == "dsm" else (False,):
        seen.clear()
        step = make_train_step(watched, judge, tx, 0.9, accumulate=4, unroll=unroll)
        parts, same = jax.jit(step)(fresh(tx), batch)
        assert set(seen) == {((16, 3), (16,), True)}
        for metric, value in metrics.items():
            np.testing.assert_allclose(same[metric], value, rtol=1e-6, err_msg=metric)
        np.testing.assert_allclose(parts.params["w"], once.params["w"], rtol=0, atol=1e-6 * scale + 1e-7)
        np.testing.assert_allclose(parts.ema_params["w"], once.ema_params["w"], rtol=0, atol=1e-6 * scale + 1e-7)


def test_parts_of_a_batch_are_equal():
    with pytest.raises(ValueError, match="a batch of 64 cannot be processed in 5 equal parts"):
        make(adam(), accumulate=5)(fresh(adam()), {"x": X})


def test_the_jit_with_options_for_convolutions_is_jit():
    """Same values, also inside another jit, which does not take options; static arguments as usual."""
    double = jit(lambda x, k: k * x, static_argnums=1)
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(double(x, 2), 2 * x)
    np.testing.assert_array_equal(jax.jit(lambda x: double(x, 3))(x), 3 * x)
    np.testing.assert_array_equal(jax.grad(lambda x: double(x, 4).sum())(x), [4, 4, 4])
    assert set(convolution_options()) <= {"xla_cpu_experimental_ynn_fusion_type"}
