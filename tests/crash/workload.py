"""Trains, samples and evaluates in one process, as main.py does in three: `python -m tests.crash.workload DIRECTORY`.

Points in the plane and a network of a few hundred parameters, so that it is start-up, checkpoints and files that take
the time, and a kill finds them under way.
"""

import sys

import run_lib
from config_lib.spec import bind, spec
from configs.points import get_config as points_config
from data_lib import moons
from eval_lib import RawFeatures, fid
from models import MLP
from sde_lib import Sampler, adam
from sde_lib.solvers import DDIM

STEPS, CHECKPOINT_EVERY, SAMPLES, BATCH = 200, 10, 96, 8


def get_config():
    config = points_config()
    config.data = spec(moons, count=300)
    config.network = spec(MLP, features=16, num_layers=1)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=5)
    config.training.update(
        batch_size=16, num_steps=STEPS, log_every=1, eval_every=15, checkpoint_every=CHECKPOINT_EVERY, keep_newest=2
    )
    config.sampling.ode = spec(Sampler, solver=DDIM(), num_steps=4)
    config.sampling.batch_size = BATCH
    config.eval.features = spec(RawFeatures)
    config.eval.metrics.fid = bind(fid)
    return config


if __name__ == "__main__":
    directory = sys.argv[1]
    run_lib.train(get_config(), directory)
    run_lib.sample(directory, SAMPLES, seed=3)
    run_lib.evaluate(directory, SAMPLES, seed=3)
