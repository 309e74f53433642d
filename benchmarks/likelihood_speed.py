"""Time of log p(x): on the device with a step size for each example, and by an ODE solver on the host.

    make digits
    python benchmarks/likelihood_speed.py [--workdir runs/digits] [--examples 64] [--tolerance 1e-5]

Both compute log p of test digits by the probability flow of the trained network, in one run, with one Rademacher probe
of Hutchinson's estimator and the same relative and absolute tolerance:

    here    `Likelihood`: one compiled program. The divergence is a forward-mode product that shares its evaluation with
            the drift. Each example has its own step size (diffrax, Tsit5).
    host    drift and divergence (reverse mode) are compiled functions, called from SciPy's RK45 on the host. The whole
            batch is one flat vector with one step size. This is our implementation of the scheme in Song et al.'s code.

Times are medians of the repeats, after one to compile. The values differ by the probes and the solvers' errors. On a
CPU both are faster with the XLA_FLAGS that the Makefile sets for `make digits`.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

import run_lib
from data_lib import digits, gather
from sde_lib import Adaptive, Likelihood, dequantize, fold, sample_keys


def on_the_host(sde, score_fn, keys, x, tolerance):
    """A function that returns (log p [B], evaluations), by SciPy's RK45 on one flat vector."""
    probe = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(fold(keys, 0))

    @jax.jit
    def drift(x, t):
        return sde.flow_drift(x, t, score_fn(x, t))

    @jax.jit
    def divergence(x, t):
        _, pull = jax.vjp(lambda x: drift(x, t), x)
        return jnp.sum(pull(probe)[0] * probe, axis=(1, 2, 3))

    def right_hand_side(t, flat):
        y, t = jnp.asarray(flat[: x.size].reshape(x.shape), jnp.float32), jnp.full(len(x), t, jnp.float32)
        return np.concatenate([np.asarray(drift(y, t)).ravel(), np.asarray(divergence(y, t))]).astype(np.float64)

    def run():
        start = np.concatenate([np.asarray(x).ravel(), np.zeros(len(x))])
        ends = (sde.t_min, sde.t_max)
        found = integrate.solve_ivp(right_hand_side, ends, start, rtol=tolerance, atol=tolerance, method="RK45")
        z, integral = found.y[: x.size, -1].reshape(x.shape), found.y[x.size :, -1]
        return np.asarray(sde.prior_logp(jnp.asarray(z, jnp.float32))) + integral, found.nfev

    return run


def here(sde, score_fn, keys, x, tolerance):
    """A function that returns (log p [B], mean evaluations), by `Likelihood`."""
    likelihood = Likelihood(solver=Adaptive(rtol=tolerance, atol=tolerance))

    @jax.jit
    def program(keys, x):
        found = likelihood.log_prob(keys, sde, score_fn, x)
        return found.value, found.nfe

    def run():
        value, evaluations = jax.block_until_ready(program(keys, x))
        return np.asarray(value), float(np.mean(evaluations))

    return run


SCHEMES = {"here": here, "host": on_the_host}


def main(workdir: str, examples: int, tolerance: float, repeats: int) -> dict[str, float]:
    model, keys = run_lib.load(workdir), sample_keys(jax.random.key(2), jnp.arange(examples))
    digit = gather(digits().test, np.arange(examples))["x"]
    x = dequantize(fold(keys, 3), model.to_model(digit), model.bin_width(digit))
    runs = {name: make(model.sde, model.score, keys, x, tolerance) for name, make in SCHEMES.items()}
    seconds, found = {name: [] for name in runs}, {}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    for name, (value, evaluations) in found.items():
        print(f"{name}: {medians[name]:.2f} s for {examples} examples, {evaluations:.0f} evaluations, ", end="")
        print(f"mean {np.mean(value) / x[0].size:.4f} nats/dim")
    print(f"the host takes {medians['host'] / medians['here']:.2f} times as long")
    return medians


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/digits")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=3)
    main(**vars(parser.parse_args()))
