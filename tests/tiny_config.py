"""The digits experiment with a network that compiles in a second, for tests of everything around it."""

from config_lib.spec import spec
from configs.digits import get_config as digits_config
from models import MLP
from sde_lib import Sampler, adam
from sde_lib.solvers import DDIM


def get_config():
    config = digits_config()
    config.network = spec(MLP, features=32, num_layers=1)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=5)
    config.training.update(
        batch_size=16, num_steps=40, log_every=5, eval_every=20, sample_every=20, snapshot_size=4,
        checkpoint_every=10, keep_newest=2, keep_every=20,
    )  # fmt: skip
    config.sampling.use = "pc"
    config.sampling.pc = spec(Sampler, num_steps=4)
    config.sampling.ode = spec(Sampler, solver=DDIM(), num_steps=4)
    config.sampling.batch_size = 16
    return config
