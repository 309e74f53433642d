"""The published networks, with their weights: the same outputs, scores, losses and training step."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from io_lib.checkpoint import Checkpoints
from published_lib import score_sde
from published_lib.msgpack_file import read_msgpack
from published_lib.score_sde_names import from_flax, parameter_shapes
from run_modes.experiment import make_experiment
from run_modes.import_published import import_checkpoint, read_published
from run_modes.state import restore_state
from sde_lib import LikelihoodWeight, SigmaSquared, dsm_loss, make_score_fn, make_train_step
from sde_lib.losses import half_sum, mean
from tests.helpers import keys
from tests.published_lib.published import GOLDEN, NETWORKS, STEP, config_of, golden, is_ve, scale, to_ours

pytestmark = pytest.mark.usefixtures("usual_promotion")

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def published():
    """name → (parts, what its torch file holds, a compiled score(params, x, t)); the flax files hold the same
    (test_both_kinds_of_file_hold_the_same)."""

    @functools.cache
    def of(name):
        parts = make_experiment(config_of(name))

        @jax.jit
        def score(params, x, t):
            return make_score_fn(partial(parts.network, params), parts.sde, parts.parameterization)(x, t)

        file = read_published(GOLDEN / name / "torch.pth", parameter_shapes(parts.network, (16, 16, 3)))
        return parts, file, score

    return of


def relative(found, expected):
    """The largest error in each example, over its largest value; the worst example."""
    found, expected = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (found, expected))
    return np.max(np.max(np.abs(found - expected), axis=1) / np.max(np.abs(expected), axis=1))


# The same numbers


@pytest.mark.parametrize("name", NETWORKS)
def test_network_and_score(published, name):
    """score = F/σ for VE, whose published network divides by σ itself, and −F/σ for the others, with θ_EMA and with θ.

    The published σ of VP and sub-VP is √(1 − exp(…)) and 1 − exp(…) in float32: at t = 10⁻³ it is off by 1.2 10⁻⁴ and
    2.4 10⁻⁴, and their score with it. Network outputs agree there too.
    """
    parts, file, score_fn = published(name)
    numbers = golden(name)
    t = jnp.asarray(numbers["t"])
    sigma = np.asarray(parts.sde.sigma(t), np.float64).reshape(-1, 1, 1, 1)
    for weights, x in (("ema", "noisy"), ("ema", "clean"), ("params", "noisy")):
        params = file.ema_params if weights == "ema" else file.params
        found = score_fn(params, jnp.asarray(to_ours(name, numbers[f"x_{x}"])), t) * scale(name)
        output = found if is_ve(name) else -sigma * found
        assert relative(output, numbers[f"net_out_{weights}_{x}"]) < 2e-5
        if weights == "ema":
            assert relative(found, numbers[f"score_ema_{x}"]) < (1e-4 if is_ve(name) else 2.5e-4)
            assert relative(found[1:], numbers[f"score_ema_{x}"][1:]) < 2e-5
    assert t[0] < 1.1e-3 and t[1] > 0.05
    if not is_ve(name):
        published_sigma = -np.median(numbers["net_out_ema_noisy"][0] / numbers["score_ema_noisy"][0])
        error = {"ddpmpp_vp": 1.21e-4, "ncsnpp_subvp": 2.42e-4}[name]
        np.testing.assert_allclose(published_sigma / sigma[0].item() - 1, error, rtol=0.02)


def given(monkeypatch, sde, t, eps):
    """Makes dsm_loss use these draws of noise; returns its keys, which no longer matter, and times."""

    def perturb(self, keys, x0, t):
        mean, std = self.marginal(x0, t)
        return mean + std * eps, eps

    monkeypatch.setattr(type(sde), "perturb", perturb)
    return {"keys": keys(len(t)), "t": t}


@pytest.mark.parametrize("name", NETWORKS)
def test_losses(published, name, monkeypatch):
    """All four losses per example, with θ_EMA and with θ, in our units: σ s and g σ⁻¹ have none."""
    parts, file, score_fn = published(name)
    numbers, sde = golden(name), parts.sde
    t, eps = jnp.asarray(numbers["loss_t"]), jnp.asarray(numbers["loss_z"])
    x0 = jnp.asarray(to_ours(name, numbers["loss_data"]))
    draws = given(monkeypatch, sde, t, eps)
    x, _ = sde.perturb(None, x0, t)
    for weights, params in (("ema", file.ema_params), ("params", file.params)):
        score = score_fn(params, x, t)
        for lw, weight in enumerate((SigmaSquared(), LikelihoodWeight())):
            for rm, reduce in enumerate((half_sum, mean)):
                loss = dsm_loss(score_fn=lambda *_, s=score: s, sde=sde, x0=x0, weight=weight, reduce=reduce, **draws)
                expected = numbers[f"loss_{weights}_lw{lw}_rm{rm}"]
                np.testing.assert_allclose(loss, expected, rtol=5e-5)


def with_flat_norms(tree):
    """The other layout of flax files: the norms' (1, 1, 1, C) as (C,)."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1) if leaf.shape[:3] == (1, 1, 1) else leaf, tree)


@pytest.mark.parametrize("name", ["ncsnpp_highres", "ddpmpp_vp"])
def test_both_kinds_of_file_hold_the_same(published, name, monkeypatch):
    """Parameters, average and moments, number for number; and in either layout of the group norms."""
    parts, torch, _ = published(name)
    shapes, path = parameter_shapes(parts.network, (16, 16, 3)), GOLDEN / name / "flax.msgpack"
    content = read_msgpack(path)
    flat = {key: with_flat_norms(content[key]) for key in ("optimizer", "params_ema")}
    assert (
        content["params_ema"]["GroupNorm_0"]["scale"].ndim == 4 and flat["params_ema"]["GroupNorm_0"]["scale"].ndim == 1
    )
    for read in (content, content | flat):
        monkeypatch.setattr(score_sde, "read_msgpack", lambda _, read=read: read)
        flax = read_published(path, shapes)
        assert torch.step == flax.step == torch.moments.count == flax.moments.count == STEP
        jax.tree.map(np.testing.assert_array_equal, flax, torch)
    assert relative(*(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])[None]
                      for tree in (torch.params, torch.ema_params))) > 1e-2  # fmt: skip


def reference_names(config):
    """Our tree with the name of each leaf in the flax file: leaves filled with their own number are moved over."""
    names, template = [], read_msgpack(GOLDEN / "ncsnpp_highres" / "flax.msgpack")["params_ema"]

    def numbered(tree, path=()):
        if isinstance(tree, dict):
            return {name: numbered(value, (*path, name)) for name, value in tree.items()}
        names.append("/".join(path))
        return np.full_like(tree, len(names) - 1)

    shapes = parameter_shapes(make_experiment(config).network, (16, 16, 3))
    moved = from_flax(numbered(template), shapes)
    return jax.tree.map(lambda leaf: names[int(np.ravel(leaf)[0])], moved)


def l2(tree):
    return jax.tree.map(lambda leaf: float(np.linalg.norm(np.ravel(np.asarray(leaf, np.float64)))), tree)


@pytest.mark.slow
def test_a_training_step_from_an_imported_directory(tmp_path, monkeypatch):
    """Loss, norm of the gradient, Adam's moments and the step that they make, for every leaf; the learning rate of the
    published warm-up at step 4321. (The average goes otherwise: ours warms up its rate.)

    The biases of attention's keys (NIN_1) have no influence, and a gradient of rounding errors.
    """
    name, config = "ncsnpp_highres", config_of("ncsnpp_highres")
    numbers = golden(name)
    with np.load(GOLDEN / name / "train_step.npz") as file:
        step = dict(file)
    import_checkpoint(config, GOLDEN / name / "flax.msgpack", tmp_path / "run")
    parts = make_experiment(config, jax.devices()[:1])
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        before = restore_state(parts, checkpoints)
    draws = given(monkeypatch, parts.sde, jnp.asarray(numbers["loss_t"]), jnp.asarray(numbers["loss_z"]))
    objective = parts.objective.replace(time_distribution=lambda key, sde, n: draws["t"])
    take = jax.jit(make_train_step(parts.network, objective, parts.tx, ema=0.999))
    after, metrics = take(before, {"x": jnp.asarray(to_ours(name, numbers["loss_data"]))})

    assert before.step == step["step_before"] and after.step == step["step_after"]
    assert {int(count) for _, count in optax.tree.get_all_with_path(after.opt_state, "count")} == {STEP + 1}
    np.testing.assert_allclose(metrics["loss"], step["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], step["grad_global_norm"], rtol=1e-6)

    names = jax.tree.leaves(reference_names(config))
    places = [list(step["names"]).index(name) for name in names]
    felt = np.array([not name.endswith("NIN_1/b") for name in names])
    mu, nu = (optax.tree.get(after.opt_state, name) for name in ("mu", "nu"))
    delta = jax.tree.map(lambda new, old: np.asarray(new, np.float64) - np.asarray(old), after.params, before.params)
    for key, tree in {"param_delta_l2": delta, "grad_ema_new_l2": mu, "grad_sq_ema_new_l2": nu}.items():
        found, expected = np.array(jax.tree.leaves(l2(tree))), step[key][places]
        np.testing.assert_allclose(found[felt], expected[felt], rtol=1e-4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4 * np.max(expected))
    compared = 0
    for key, tree in {"param_new": after.params, "grad_ema_new": mu, "grad_sq_ema_new": nu}.items():
        for name, leaf in zip(names, jax.tree.leaves(tree), strict=True):
            if f"{key}:{name}" in step:
                expected = step[f"{key}:{name}"].reshape(leaf.shape)
                np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=2e-6 * np.max(np.abs(expected)))
                compared += 1
    assert compared == 15
