"""The cost of sampling beyond that of its network, and the time to compile.

    python benchmarks/overhead.py [--repeats 7]

For n evaluations, the cost is the run time of a sampling program over that of n calls of the jitted network on the same
batch. Both are timed in turns; the result is the median ratio of adjacent timings, for a small and a larger network.
The time to compile is that of 10 and of 1,000 steps, with empty caches.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from config_lib.spec import build
from configs.digits import get_config
from models import NCSNpp
from models.network import as_network
from sde_lib import VP, LogSNRGrid, PredictNoise, Sampler, ScoreModel, as_is, sample_keys
from sde_lib.solvers import DDIM, Ancestral, DPMSolverPlusPlus

SOLVERS = {"ddim": DDIM(), "ancestral": Ancestral(), "dpm++2m": DPMSolverPlusPlus(order=2)}
NETWORKS = {  # name: (network, event shape, batch)
    "digits": (lambda: build(get_config().network), (8, 8, 1), 256),
    "images": (lambda: NCSNpp(nf=64, ch_mult=(1, 2, 2), num_res_blocks=2, attn_resolutions=(16,)), (32, 32, 3), 16),
}


def seconds(run) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def make_model(name: str) -> tuple[ScoreModel, int]:
    """(a model of the network with initial parameters, its batch size)."""
    make, shape, batch = NETWORKS[name]
    network = as_network(make())
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    return ScoreModel(sde=VP(), parameterization=PredictNoise(), params=params, network=network, shape=shape), batch


def ratio(model: ScoreModel, solver, batch: int, steps: int, repeats: int) -> float:
    """Run time of `steps` steps over that of the same number of network calls."""
    sampler = Sampler(solver=solver, grid=LogSNRGrid(t_end=1e-3), num_steps=steps, denoise=as_is)
    sampling, keys = model.replace(sampler=sampler), sample_keys(jax.random.key(1), jnp.arange(batch))
    x, c_noise = jax.vmap(lambda key: jax.random.normal(key, model.shape))(keys), jnp.full(batch, 0.5)
    network = jax.jit(lambda params, x, c: model.network(params, x, c))
    indices = jnp.arange(batch)
    run = lambda: sampling.sample_indices(jax.random.key(1), indices)  # noqa: E731

    def bare():
        for _ in range(steps * solver.nfe):
            out = network(model.params, x, c_noise)
        return out

    seconds(run), seconds(bare)
    return float(np.median([seconds(run) / seconds(bare) for _ in range(repeats)]))


def compile_seconds(model: ScoreModel, steps: int) -> float:
    """Time to compile a program of `steps` steps, with empty caches."""
    jax.clear_caches()
    sampler = Sampler(grid=LogSNRGrid(t_end=1e-3), solver=Ancestral(), num_steps=steps, denoise=as_is)
    keys = sample_keys(jax.random.key(1), jnp.arange(8))
    program = jax.jit(lambda params, keys: sampler(keys, model.sde, model.replace(params=params).score, model.shape))
    start = time.perf_counter()
    program.lower(model.params, keys).compile()
    return time.perf_counter() - start


def main(repeats: int, names: list[str], steps: int = 10) -> None:
    print("| network | solver | evaluations | time over the bare network's |\n|---|---|--:|--:|")
    for name in names:
        model, batch = make_model(name)
        for solver in SOLVERS:
            cost = ratio(model, SOLVERS[solver], batch, steps, repeats)
            print(f"| {name} | {solver} | {steps * SOLVERS[solver].nfe} | {cost:.3f} |", flush=True)
    print("\n| network | compile, 10 steps | 1,000 steps |\n|---|--:|--:|")
    for name in names:
        model, _ = make_model(name)
        times = {n: min(compile_seconds(model, n) for _ in range(2)) for n in (10, 1000)}
        print(f"| {name} | {times[10]:.2f} s | {times[1000]:.2f} s |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--names", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    main(**vars(parser.parse_args()))
