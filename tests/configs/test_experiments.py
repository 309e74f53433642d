"""Every config in configs/: it builds, keeps its word in JSON, and its network has the size that it states."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import run_lib
from configs.spec import from_json, to_json
from sde_lib import VE

HELPERS = {"__init__", "base", "command_line", "names", "own_data", "saved", "spec", "types"}
EXPERIMENTS = sorted(p.stem for p in (Path(__file__).parents[2] / "configs").glob("*.py") if p.stem not in HELPERS)


def parameter_count(config):
    network = run_lib.build_parts(config).network
    x = jax.ShapeDtypeStruct((1, *config.shape), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_builds_and_round_trips(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    for choice in config.sampling:
        if choice not in ("use", "batch_size"):
            config.sampling.use = choice
            parts = run_lib.build_parts(config)
            assert parts.sampler.nfe > 0
    assert to_json(from_json(to_json(config))) == to_json(config)
    document = importlib.import_module(f"configs.{name}").__doc__
    assert f"configs/{name}.py" in document or name == "points"


@pytest.mark.parametrize(("name", "count"), [("digits", 748_737), ("cifar10", 62_758_915)])
def test_parameter_counts(name, count):
    assert parameter_count(importlib.import_module(f"configs.{name}").get_config()) == count


def test_cifar10_is_the_published_experiment():
    """Song et al. 2021, appendix H and their configuration, with noise levels doubled for data in [−1, 1]."""
    config = importlib.import_module("configs.cifar10").get_config()
    parts = run_lib.build_parts(config)
    assert parts.sde == VE(sigma_min=0.02, sigma_max=100.0)
    assert parts.sampler.nfe == 2000 and parts.sampler.solver.corrector.norm == "batch"
    training, optimizer = config.training, config.optimizer
    assert (training.batch_size, training.num_steps, training.ema, training.flip) == (128, 1_300_000, 0.999, True)
    assert (optimizer.learning_rate, optimizer.warmup_steps, optimizer.clip_norm) == (2e-4, 5000, 1.0)
