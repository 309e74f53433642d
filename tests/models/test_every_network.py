"""What holds for every network of the table: shapes, conditions, independence, precision, and that it learns."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import LinenNetwork
from sde_lib import VP, PredictNoise, ScaledTime, dsm_loss, make_score_fn, sample_keys
from sde_lib.losses import mean
from tests.contracts import CONVOLUTIONAL, NETWORKS, quickly
from tests.helpers import close
from tests.models.common import KEY, batch, jit, random_params, shapes

EVENT = (6, 5, 2)
each_network = pytest.mark.parametrize("name", NETWORKS)
NEW = ("ncsnv2", "adm", "dit")  # in `make test`; NCSN++ has tests of its own, and NCSN is NCSNv2 with other norms


BLIND = ("ncsnv2",)  # to the noise level


@functools.cache
def conditional(name):
    """A network with classes and a vector, its parameters, and a compiled call."""
    net = NETWORKS[name](num_classes=3, cond_dim=2)
    return random_params(net, *EVENT), jit(lambda p, x, c_noise, cond: LinenNetwork(net)(p, x, c_noise, cond=cond))


def six():
    """Of rows 1 … 5 each differs from row 0 in one thing: class, class (none told), vector, noise level, x."""
    x = jnp.broadcast_to(batch(1, *EVENT), (6, *EVENT)).at[5, 0, 0, 0].add(1.0)
    c_noise = jnp.array([0.6, 0.6, 0.6, 0.6, 2.3, 0.6], jnp.float32)
    vector = jnp.tile(jnp.array([[0.5, -1.0]], jnp.float32), (6, 1)).at[3, 1].set(0.7)
    return x, c_noise, (jnp.array([0, 1, 3, 0, 0, 0]), vector)


# Numbers


@each_network
def test_numbers_are_refused_where_a_network_is_built(name):
    width = "features" if name in ("mlp", "dit") else "nf"
    for number, value, allowed in (
        (width, 0, ">= 1"),
        ("num_classes", -1, ">= 0"),
        ("cond_dropout", 1.5, ">= 0 and <= 1"),
        ("cond_dropout", float("nan"), ">= 0 and <= 1"),
    ):
        with pytest.raises(ValueError, match=rf"expected {number} {allowed}; got {number}={value:g}$"):
            NETWORKS[name](**{number: value})


# Shapes


@quickly(*NEW, among=NETWORKS)
@pytest.mark.parametrize(
    "event",
    [*(pytest.param(e, marks=pytest.mark.slow) for e in ((28, 28, 1), (64, 3))), (50, 37, 2), (5, 1), (4, 3, 5, 1)],
)
def test_any_spatial_shape(name, event):
    net = NETWORKS[name]()
    out = jax.eval_shape(lambda p, x: LinenNetwork(net)(p, x, jnp.zeros(2)), shapes(net, *event), batch(2, *event))
    assert out.shape == (2, *event) and out.dtype == jnp.float32


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "dit"])
@pytest.mark.parametrize("event", [(3,), (2, 2, 2, 2, 1)])
def test_rank_of_x(name, event):
    with pytest.raises(ValueError, match=r": expected x of shape \[B, 1 to 3 spatial axes, C\], got"):
        shapes(NETWORKS[name](), *event)


# Conditions and samples


@quickly("mlp", "ncsnpp", "ncsn", *NEW, among=NETWORKS)
def test_everything_told_has_influence(name):
    """A network that ignored its class, its vector or its noise level would return the same row again."""
    params, forward = conditional(name)
    out = np.asarray(forward(params, *six()))
    changes = {
        what: np.max(np.abs(out[i] - out[0])) for i, what in enumerate(("class", "null", "vector", "noise", "x"), 1)
    }
    ignored = [what for what, change in changes.items() if change < 1e-3]
    assert ignored == (["noise"] if name in BLIND else []), changes
    assert np.max(np.abs(out[1] - out[2])) > 1e-3


@quickly("mlp", "ncsnpp", "ncsn", *NEW, among=NETWORKS)
def test_samples_are_independent_of_their_neighbors(name):
    params, forward = conditional(name)
    x, c_noise, (labels, vector) = six()
    out = forward(params, x, c_noise, (labels, vector))
    others = (labels.at[1:].set(2), vector.at[1:].set(-2.0))
    changed = forward(params, x.at[1:].multiply(3.0), c_noise.at[1:].set(1.4), others)
    close(changed[0], out[0], 1e-4)
    assert float(jnp.min(jnp.max(jnp.abs(changed - out)[1:], axis=(1, 2, 3)))) > 1e-3


@quickly("mlp", "ncsnpp", "adm", "dit", among=sorted(set(NETWORKS) - {"ncsn", "ncsnv2"}))
def test_fields_and_sequences_have_influence_on_their_own_sample_only(name):
    """Of rows 1 … 4 each differs from row 0 in one thing: field, a token, the order of tokens, nulls of both."""
    net = NETWORKS[name](cond_channels=1, context_dim=2, cond_null="learned")
    x = jnp.broadcast_to(batch(1, *EVENT), (4, *EVENT))
    field = jnp.broadcast_to(batch(1, 6, 5, 1, seed=1), (4, 6, 5, 1)).at[1, 2, 2].add(1.0)
    tokens = jnp.broadcast_to(batch(1, 3, 2, seed=2), (4, 3, 2)).at[2, 1].add(1.0)
    tokens = tokens.at[3].set(tokens[0, ::-1])
    params, c_noise = random_params(net, *EVENT), jnp.full(4, 0.6, jnp.float32)
    forward = jit(lambda p, cond: LinenNetwork(net)(p, x, c_noise, cond=cond))
    out = np.asarray(forward(params, {"field": field, "sequence": tokens}))
    change = np.max(np.abs(out - out[:1]), axis=(1, 2, 3))
    assert change[0] == 0 and np.all(change[1:] > 1e-3), change
    without = np.asarray(forward(params, None))
    assert np.max(np.abs(without - without[:1])) == 0 and np.max(np.abs(without - out)) > 1e-3
    other = np.asarray(forward(params, {"field": field.at[1:].multiply(2), "sequence": tokens.at[1:].multiply(2)}))
    close(other[0], out[0], 1e-4)


@quickly("mlp", *NEW, among=NETWORKS)
def test_a_cond_that_does_not_fit(name):
    x, c_noise = batch(2, *EVENT), jnp.zeros(2, jnp.float32)
    for options, cond in (
        ({}, jnp.zeros(2, jnp.int32)),
        ({"num_classes": 3}, batch(2, 3)),
        ({"cond_dim": 3}, batch(2, 2)),
    ):
        with pytest.raises(ValueError, match="cond: expected"):
            jax.eval_shape(LinenNetwork(NETWORKS[name](**options)).init, KEY, x, c_noise, cond)


@quickly("mlp", *NEW, among=NETWORKS)
def test_label_dropout_needs_a_key_in_training_alone(name):
    net = NETWORKS[name](num_classes=3, cond_dropout=0.5)
    call = partial(LinenNetwork(net), cond=jnp.zeros(2, jnp.int32))
    arguments = (shapes(net, *EVENT), batch(2, *EVENT), jnp.zeros(2, jnp.float32))
    jax.eval_shape(call, *arguments)
    jax.eval_shape(partial(call, key=KEY, train=True), *arguments)
    with pytest.raises(ValueError, match=r"train=True draws random numbers .*expected key=, got None"):
        jax.eval_shape(partial(call, train=True), *arguments)


@quickly("dit", among=NETWORKS)
def test_a_label_that_is_always_dropped_is_the_null_label(name):
    net = NETWORKS[name](num_classes=3, cond_dropout=1.0)
    params, x = random_params(net, *EVENT), batch(2, *EVENT)
    forward = jit(partial(LinenNetwork(net), key=KEY), static_argnames="train")
    c_noise = jnp.full(2, 0.6, jnp.float32)
    trained = forward(params, x, c_noise, cond=jnp.array([0, 1]), train=True)
    untold = forward(params, x, c_noise, cond=jnp.array([3, 3]), train=False)
    close(trained, untold, 1e-4)
    told = forward(params, x, c_noise, cond=jnp.array([0, 1]), train=False)
    assert float(jnp.max(jnp.abs(told - untold))) > 1e-3


# Structure


@quickly("ncsnv2", "dit", among=NETWORKS)
def test_every_position_and_every_kernel_has_influence(name):
    # So padding and cropping of odd sizes cut nothing off, and no branch is computed in vain.
    net, event = NETWORKS[name](), (7, 5, 2)
    params, x, c_noise = random_params(net, *event), batch(2, *event), jnp.array([0.6, 2.3], jnp.float32)
    loss = lambda p, x: jnp.sum(LinenNetwork(net)(p, x, c_noise) ** 2)  # noqa: E731
    gradients = jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradients))
    assert bool(jnp.all(gradients[1] != 0))
    kernels = [(path, g) for path, g in jax.tree.leaves_with_path(gradients[0]) if path[-1].key == "kernel"]
    assert kernels and [path for path, g in kernels if float(jnp.max(jnp.abs(g))) == 0] == []


@quickly("adm", among=("ncsnpp", "ncsnv2", "adm"))
def test_an_axis_of_length_1_adds_nothing(name):
    """One code path for 1-D and 2-D: a signal is an image of width 1, on which a kernel's middle column alone acts.

    Not so where zeros outside are counted: by NCSN's mean pools and by taps of more than two; nor in DDPM, whose
    convolutions of stride 2 start at their first column."""
    options = dict(fir_taps=(1, 1), progressive_input="none") if name == "ncsnpp" else {}
    line = image = NETWORKS[name](**options)
    wide = random_params(image, 7, 1, 2)

    def middle(kernel, like):
        return kernel[:, kernel.shape[1] // 2] if kernel.ndim == 4 else kernel.reshape(like.shape)

    def only_middle(kernel):
        if kernel.ndim != 4:
            return kernel
        keep = jnp.arange(kernel.shape[1]) == kernel.shape[1] // 2
        return kernel * keep.astype(kernel.dtype)[None, :, None, None]

    narrow = jax.tree.map(middle, wide, shapes(line, 7, 2))
    x, c_noise = batch(2, 7, 2), jnp.array([0.6, 2.3], jnp.float32)
    expected = jit(LinenNetwork(image))(jax.tree.map(only_middle, wide), x[:, :, None], c_noise)[:, :, 0]
    found = jit(LinenNetwork(line))(narrow, x, c_noise)
    scale = float(jnp.max(jnp.abs(expected)))
    assert scale > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "ncsn" else pytest.mark.slow) for n in CONVOLUTIONAL]
)
def test_no_axis_is_special(name):
    """Exchanging the spatial axes of x and of every kernel exchanges those of the output."""
    net, event = NETWORKS[name](), (7, 4, 2)
    params, x = random_params(net, *event), batch(2, *event)
    forward, c_noise = jit(LinenNetwork(net)), jnp.array([0.6, 2.3], jnp.float32)
    turned = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, params)
    expected = forward(params, x, c_noise)
    found = forward(turned, x.swapaxes(1, 2), c_noise).swapaxes(1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.max(jnp.abs(expected))))
    assert float(jnp.max(jnp.abs(forward(params, x.swapaxes(1, 2), c_noise).swapaxes(1, 2) - expected))) > 1e-2


# Precision and memory


@quickly("mlp", *NEW, among=NETWORKS)
def test_what_is_computed_in_bfloat16_comes_out_in_float32(name):
    net = NETWORKS[name](dtype="bfloat16", num_classes=2)
    params = shapes(net, *EVENT)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    call = jax.make_jaxpr(partial(LinenNetwork(net), cond=jnp.zeros(2, jnp.int32)))
    jaxpr = call(params, batch(2, *EVENT), jnp.zeros(2, jnp.float32))
    assert jaxpr.out_avals[0].dtype == jnp.float32
    assert "bf16" in str(jaxpr)
    with pytest.raises(ValueError, match="dtype: expected one of 'bfloat16', 'float32', got 'float16'"):
        NETWORKS[name](dtype="float16")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "mlp"])
def test_bfloat16_rounds_and_no_more(name):
    x, params = batch(2, *EVENT), random_params(NETWORKS[name](), *EVENT)
    c_noise = jnp.array([0.6, 2.3], jnp.float32)
    exact, rounded = (
        jit(LinenNetwork(NETWORKS[name](dtype=dtype)))(params, x, c_noise) for dtype in (None, "bfloat16")
    )
    error = float(jnp.std(rounded - exact) / jnp.std(exact))
    assert 1e-4 < error < 0.05, error


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "mlp"])
def test_rematerialization_changes_neither_names_nor_gradients(name):
    plain, again = NETWORKS[name](), NETWORKS[name](remat=True)
    params, x, c_noise = random_params(plain, *EVENT), batch(2, *EVENT), jnp.array([0.6, 2.3], jnp.float32)
    assert jax.tree.structure(params) == jax.tree.structure(shapes(again, *EVENT))

    def gradient(net):
        loss = lambda p: jnp.mean(LinenNetwork(net)(p, x, c_noise) ** 2)  # noqa: E731
        assert ("remat" in str(jax.make_jaxpr(loss)(params))) == net.remat
        return jit(jax.grad(loss))(params)

    for one, other in zip(*(jax.tree.leaves(gradient(net)) for net in (plain, again)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * float(jnp.max(jnp.abs(other))) + 1e-7)


# That it learns

TIMES = jnp.array([0.2, 0.4, 0.6, 0.8], jnp.float32)
STD, MEANS = 0.5, jnp.array([-1.0, 1.0], jnp.float32)
SHAPE = (4, 4, 1)
WIDER = {"mlp": {"features": 64}}  # than the 16 pixels


def examples(key, n):
    """Two classes of white images: N(±1, 0.25)."""
    labels_key, noise_key = jax.random.split(key)
    labels = jax.random.randint(labels_key, (n,), 0, 2)
    noise = jax.random.normal(noise_key, (n, *SHAPE), jnp.float32)
    return MEANS[labels].reshape(-1, 1, 1, 1) + STD * noise, labels


def least_loss(sde, times, variance):
    """The mean over times of E (ε − ε̂)² = α² v/(α² v + σ²), for Gaussian data of variance v."""
    signal = np.asarray(sde.alpha(times), float) ** 2 * variance
    return np.mean(signal / (signal + np.asarray(sde.sigma(times), float) ** 2))


@pytest.mark.slow
@each_network
def test_the_loss_comes_near_the_least_that_there_is(name):
    """Noise prediction, told class and noise level; NCSNv2, which is not told it, at one level."""
    net = LinenNetwork(NETWORKS[name](num_classes=2, **WIDER.get(name, {})))
    sde, times = VP(), TIMES[1:2] if name in BLIND else TIMES
    label = PredictNoise(c_noise=ScaledTime(scale=5.0, offset=-1.0))

    def loss(params, key):
        data_key, time_key, noise_key = jax.random.split(key, 3)
        x0, labels = examples(data_key, 128)
        score_fn = make_score_fn(partial(net, params, cond=labels), sde, label)
        t, keys = jax.random.choice(time_key, times, (128,)), sample_keys(noise_key, jnp.arange(128))
        return jnp.mean(dsm_loss(keys, score_fn, sde, x0, t, reduce=mean))

    tx = optax.adam(optax.schedules.cosine_decay_schedule(1e-2, 600))

    @jax.jit
    def step(params, state, key):
        with jax.numpy_dtype_promotion("standard"):
            value, gradient = jax.value_and_grad(loss)(params, key)
            updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params = jax.jit(net.init)(KEY, *(jnp.zeros((1, *SHAPE), jnp.float32), jnp.zeros(1, jnp.float32)))
    state = tx.init(params)
    values = []
    for i in range(600):
        params, state, value = step(params, state, jax.random.fold_in(KEY, i))
        values.append(float(value))
    least, reached = least_loss(sde, times, STD**2), np.mean(values[-50:])
    print(f"{name}: {values[0]:.3f} at first, {reached:.4f} at the end, {least:.4f} the least")
    assert values[0] > 0.9 and 0.97 * least < reached < 1.25 * least
