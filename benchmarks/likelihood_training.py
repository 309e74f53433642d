"""Bits per dimension of the digits' test split, for four training losses.

    python benchmarks/likelihood_training.py [--steps 2000] [--examples 500] [--losses sigma2 likelihood ...]

Network, steps and learning rate are the same; the loss differs:

    sigma2        denoising score matching with the weight σ², t uniform, on dequantized digits
    likelihood    the weight g², t uniform in log-SNR with the rest of the weight as a factor
                  (`sde_lib/training/likelihood_weighting.py`), on dequantized digits
    sigma2_bound  as `sigma2`, on digits without dequantization
    elbo          as `likelihood`, on digits without dequantization: the reverse SDE's bound with a discrete decoder

The first two are evaluated by the ODE, the last two by the bound on discrete data, each with its standard error over
the same examples. So compare `likelihood` with `sigma2`, and `elbo` with `sigma2_bound`. The first two are of a density
over the bins; do not compare them with the last two.

For the last two, the process ends where σ is a quarter of a bin (--t_min_bound): the decoder then distinguishes the
levels. At smaller σ the network would have to, and it approximates steps in its input badly.
"""

import argparse
import tempfile
import time

import jax
import numpy as np

import run_lib
from config_lib.spec import bind, spec
from configs.digits import get_config
from data_lib import digits, gather
from sde_lib import (
    VP,
    ImportanceLikelihoodWeight,
    Likelihood,
    LogSNRTime,
    SigmaSquared,
    StratifiedTime,
    dsm_loss,
    nats_to_bits,
)

BIN = 2 / 16  # width of one of the digits' 17 levels in [−1, 1]
LOSSES = {
    "sigma2": (SigmaSquared(), StratifiedTime(), BIN),
    "likelihood": (ImportanceLikelihoodWeight(), LogSNRTime(), BIN),
    "sigma2_bound": (SigmaSquared(), StratifiedTime(), 0.0),
    "elbo": (ImportanceLikelihoodWeight(), LogSNRTime(), 0.0),
}
BOUNDED = ("sigma2_bound", "elbo")  # trained without dequantization


def configure(loss: str, steps: int, t_min_bound: float):
    config = get_config()
    config.sde = spec(VP, t_min=t_min_bound if loss in BOUNDED else 1e-4)
    weight, times, config.objective.bin_width = LOSSES[loss]
    config.loss, config.time_distribution = bind(dsm_loss, weight=weight), spec(type(times))
    config.training.num_steps = steps
    config.training.update(sample_every=0, eval_every=0)
    return config


def bits(model, x: np.ndarray, loss: str, batch: int = 100) -> np.ndarray:
    """Bits per dimension [N]: the ELBO's for a model trained without dequantization, else the ODE's."""
    key, found = jax.random.key(0), []
    for first in range(0, len(x), batch):
        rows = x[first : first + batch]
        if loss in BOUNDED:
            bound = model.elbo(key, rows, num_times=128, levels=np.arange(17), first=first)
            found.append(np.asarray(nats_to_bits(bound.value, rows[0].size)))
        else:
            found.append(np.asarray(model.bits_per_dim(key, rows, first=first)))
    return np.concatenate(found)


def main(
    steps: int, examples: int, losses: tuple[str, ...] = tuple(LOSSES), t_min_bound: float = 6e-3
) -> dict[str, tuple[float, float]]:
    test = digits().test
    x = gather(test, np.arange(min(examples, len(test))))["x"]
    rows = {}
    print("| loss | steps | bits/dim | ± | evaluated by |\n|---|--:|--:|--:|---|")
    for loss in losses:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            run_lib.train(configure(loss, steps, t_min_bound), folder)
            model = run_lib.load(folder).replace(likelihood=Likelihood(to_data=True))
        trained = time.perf_counter() - start
        values, what = bits(model, x, loss), "ELBO" if loss in BOUNDED else "ODE, dequantized"
        rows[loss] = float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))
        seconds = f"{trained:.0f} s of training, {time.perf_counter() - start - trained:.0f} s of evaluation"
        print(f"| {loss} | {steps} | {rows[loss][0]:.3f} | {rows[loss][1]:.3f} | {what} ({seconds}) |", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=tuple(LOSSES))
    parser.add_argument("--t_min_bound", type=float, default=6e-3)
    main(**vars(parser.parse_args()))
