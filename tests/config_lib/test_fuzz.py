"""Whatever a flag says, the answer is a config that works or one line that names the place."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from config_lib.spec import ConfigError, spec
from models import NCSNpp, as_network
from run_modes.experiment import make_experiment
from run_modes.training_loop import check_shapes
from tests.config_lib import fuzz
from tests.crash.workload import get_config as points

pytestmark = pytest.mark.usefixtures("usual_promotion")


def digits():
    config = importlib.import_module("configs.digits").get_config()
    config.network = spec(NCSNpp, nf=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    return config


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (points, 100),
        pytest.param(points, 1500, marks=pytest.mark.slow),
        pytest.param(digits, 500, marks=pytest.mark.slow),
    ],
)
def test_any_change_is_taken_or_refused_in_one_line(make, count):
    generator, refused, named = np.random.default_rng(count), {"key": 0, "value": 0}, 0
    for _ in range(count):
        flag, kind, key = fuzz.change(make(), generator)
        said = fuzz.outcome(make(), flag)
        if said is None:
            assert kind == "value", flag
            continue
        refused[kind] += 1
        assert "\n" not in said and "Traceback" not in said and len(said) < 500, (flag, said)
        assert ("nearest: config." in said) if kind == "key" else ("config" in said), (flag, said)
        named += kind == "key" and said.endswith(f"nearest: config.{key}")
    assert refused["key"] + refused["value"] < 0.95 * count  # some are taken
    assert refused["value"] > 0.2 * count and named > 0.8 * refused["key"] > 0.1 * count


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("network.features=-1", r"config\.network: MLP: expected features >= 1; got features=-1"),
        ("network.features=0", r"config\.network: MLP: expected features >= 1; got features=0"),
        ("training.num_steps=0", r"config\.training\.num_steps=0: expected 1 or more"),
        ("training.log_every=-1", r"config\.training\.log_every=-1: expected 0 or more"),
        ("training.ema=1.5", r"config\.training\.ema=1\.5: expected 0 or more, below 1"),
        ("training.accumulate=3", r"config\.training\.accumulate=3: a batch of 16 on 1 devices cannot be processed in"),
        ("data.count=0", "moons"),
        (
            "sampling.ode.grid.t_end=3.5",
            r"config\.sampling\.ode: .*Grid: expected a finite number t_end >= 0 and < t_max",
        ),
        ("objective.bin_width=-1.0", r"config\.objective"),
    ],
)
def test_numbers_that_mean_nothing(flag, message):
    with pytest.raises(ValueError, match=message):
        raise ValueError(fuzz.outcome(points(), f"--config.{flag}"))


class OfNoWidth(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise):
        return x + jnp.sum(self.param("kernel", nn.initializers.zeros, (0, 3), jnp.float32))


def test_a_parameter_of_no_size_is_refused():
    """Some versions of JAX initialize it, and a run would train nothing."""
    config = points()
    experiment = make_experiment(config, jax.devices()[:1])._replace(network=as_network(OfNoWidth()))
    with pytest.raises(ConfigError, match=r"cannot be built .* parameter \['kernel'\] is of shape \(0, 3\)"):
        check_shapes(experiment)
