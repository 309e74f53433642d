"""The loss of the EMA parameters on the test data: its mean, and its values at fixed t."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_lib import Dataset, eval_batches
from run_modes.conditions import network_batch
from run_modes.experiment import Experiment
from run_modes.state import EVAL, TRAIN, key_for
from sde_lib import AppliedNetwork, TrainState, frozen_state, make_eval_step, sample_keys
from sde_lib.training.xla import jit


class EvalLoss:
    """(parameters, step) → the mean loss over the test examples, with the same noise in every call."""

    def __init__(self, experiment: Experiment, dataset: Dataset):
        self.experiment, self.dataset = experiment, dataset
        step = make_eval_step(experiment.network, experiment.objective)
        self.eval_step = jit(step, out_shardings=experiment.devices.replicated)

    def __call__(self, params: Any, step: int) -> float:
        experiment, total, count = self.experiment, 0.0, 0.0
        config, key = experiment.config, key_for(experiment.config, EVAL)
        state = frozen_state(key_for(config, TRAIN), params, step)
        size = experiment.devices.whole(config.eval.batch_size)
        for i, batch in enumerate(eval_batches(self.dataset.test, experiment.transform, size)):
            batch = experiment.devices.put_whole(network_batch(experiment, batch))
            value, n = self.eval_step(state, jax.random.fold_in(key, i), batch)
            total, count = total + float(value) * float(n), count + float(n)
        return total / count


def loss_curve(
    experiment: Experiment, params: Any, step: int, dataset: Dataset, times: int = 16, examples: int = 1000
) -> dict | None:
    """The loss at each of `times` equidistant t, over the first test examples: means and standard errors.

    None for an objective that draws no time, or several times per sample.
    """
    objective, config = experiment.objective, experiment.config
    sde = getattr(objective, "sde", None)
    if sde is None or jax.eval_shape(partial(objective.times, n=2), jax.random.key(0)).shape != (2,):
        return None
    at, size = jit(partial(_loss_at, experiment)), experiment.devices.whole(config.eval.batch_size)
    state = jax.device_put(frozen_state(key_for(config, TRAIN), params, step), experiment.devices.replicated)
    grid = np.linspace(float(sde.t_min), float(sde.t_max), times).astype(np.float32)
    totals = np.zeros((3, times))
    for first, batch in enumerate(eval_batches(dataset.test, experiment.transform, size)):
        if first * size >= examples:
            break
        batch = experiment.devices.put(network_batch(experiment, batch))
        for k, t in enumerate(grid):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), first), k)
            totals[:, k] += jax.device_get(at(state, key, t, batch))
    total, squares, count = totals
    mean = total / count
    error = np.sqrt(np.maximum(squares / count - mean**2, 0) / count)
    return {"t": grid.tolist(), "loss": mean.tolist(), "error": error.tolist()}


def _loss_at(experiment: Experiment, state: TrainState, key: jax.Array, t: jax.Array, batch: dict) -> jax.Array:
    """[3]: the sum of the losses of a batch at t, the sum of their squares, and their number."""
    objective, size = experiment.objective, batch["x"].shape[0]
    network = AppliedNetwork(params=objective.network_params(state.params), network=experiment.network)
    value = objective(sample_keys(key, jnp.arange(size)), jnp.full(size, t), network, batch, state)
    mask = batch["mask"]
    return jnp.stack([jnp.sum(value * mask), jnp.sum(value**2 * mask), jnp.sum(mask)])
