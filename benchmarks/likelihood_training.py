"""Bits per dimension of the digits' test split, by what the network was trained for.

    python benchmarks/likelihood_training.py [--steps 2000] [--examples 500] [--losses sigma2 likelihood ...]

The same small network, steps and learning rate four times; what differs is the loss:

    sigma2        denoising score matching with the weight σ², t uniform, on dequantized digits
    likelihood    the weight g², t uniform in log-SNR and what is left of the weight (`sde_lib.likelihood_training`), on
                  dequantized digits
    sigma2_bound  as `sigma2`, on the digits as they are
    elbo          as `likelihood`, on the digits as they are: the bound of the reverse SDE with a discrete decoder

For the first two the number is of the ODE, for the last two the bound on the discrete data, each with its standard
error over the examples, which are the same for all: so `likelihood` is held against `sigma2`, and `elbo` against
`sigma2_bound`. The bound of the first two is of the density over the bins, and so not to be compared with the last.

Of the last two the process ends where σ is a quarter of a bin (--t_min_bound), and the decoder tells the levels apart:
below that it would fall to the network, which learns steps in its input badly.
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

BIN = 2 / 16  # of the digits' 17 levels in [−1, 1]
LOSSES = {
    "sigma2": (SigmaSquared(), StratifiedTime(), BIN),
    "likelihood": (ImportanceLikelihoodWeight(), LogSNRTime(), BIN),
    "sigma2_bound": (SigmaSquared(), StratifiedTime(), 0.0),
    "elbo": (ImportanceLikelihoodWeight(), LogSNRTime(), 0.0),
}
BOUNDED = ("sigma2_bound", "elbo")  # trained on the digits as they are


def configure(loss: str, steps: int, t_min_bound: float):
    config = get_config()
    config.sde = spec(VP, t_min=t_min_bound if loss in BOUNDED else 1e-4)
    weight, times, config.objective.bin_width = LOSSES[loss]
    config.loss, config.time_distribution = bind(dsm_loss, weight=weight), spec(type(times))
    config.training.num_steps = steps
    config.training.update(sample_every=0, eval_every=0)
    return config


def bits(model, x: np.ndarray, loss: str, batch: int = 100) -> np.ndarray:
    """Bits per dimension [N]: the ELBO's where the model was trained on the digits as they are, else the ODE's."""
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
    print("| trained for | steps | bits/dim | ± | of |\n|---|--:|--:|--:|---|")
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
