"""Bits per dimension of a data split: by the flow, and as the bound of the reverse SDE. Cached batch by batch."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, gather
from data_lib.identity import digest
from io_lib.shards import Shards, fill, mapped
from run_modes.conditions import given_conditions
from run_modes.experiment import Experiment
from run_modes.trained import Trained, made_with, require_finite
from sde_lib import ScoreModel, nats_to_bits

SPLITS = ("test", "train")


def wanted(config: ConfigDict) -> bool:
    """Whether config.eval.bpd names a split. ConfigError for an unknown one."""
    split = config.eval.get("bpd", {}).get("split", "")
    if split not in ("", *SPLITS):
        raise ConfigError(f"config.eval.bpd.split is {split!r}: expected one of {', '.join(SPLITS)}, or '' for none")
    return bool(split)


def bits_of(trained: Trained, dataset: Dataset, seed: int, folder: Path) -> dict | None:
    """Bits per dimension as config.eval.bpd specifies, in JSON's types; per-example values in folder/bits_SPLIT.npz.

    split, count   the first `count` examples of the split
    flow           bits per dimension of the ODE, with `samples` importance samples: mean, and its standard error over
                   examples, which includes the variance of dequantization and probes
    elbo           the bound of the reverse SDE with the decoder of discrete data: mean and standard error
    evaluations    evaluations of the score and its divergence per log p(x), mean over the first batch
    solver, probes, truncation      mean errors over that batch, as `LogProb` estimates them, in bits per dimension

    Batches are cached as they are computed, so evaluation resumes after a kill; None if a signal stopped it.
    ConfigError for data that are not of an integer type, and for an ELBO if the transform does not specify the levels.
    """
    config, options = trained.config, trained.config.eval.bpd
    source = getattr(dataset, options.split)
    count = min(options.count or len(source), len(source))
    model = jax.device_put(
        trained.model.replace(split=trained.experiment.devices.batch), trained.experiment.devices.replicated
    )
    levels = levels_of(trained) if options.elbo_times else None
    used = {"bits": options.to_dict() | {"count": 0}, "likelihood": config.eval.get("likelihood"), "data": config.data}
    used["examples"] = digest(source)
    shards = Shards(folder / "shards", f"bits_{options.split}_step{trained.step}", made_with(trained, seed, used))
    size = trained.experiment.devices.whole(config.eval.batch_size)
    if not evaluate_missing(model, trained.experiment, shards, source, count, levels, seed, size):
        return None
    file = folder / f"bits_{options.split}.npz"
    shards.union(file, count)
    found = {"split": options.split, "count": count, "samples": options.samples}
    for name, column in zip(("flow", "elbo"), np.asarray(mapped(file)).T, strict=True):
        if not np.all(np.isnan(column)):
            found[name] = {"mean": float(np.mean(column)), "error": float(np.std(column) / np.sqrt(count))}
    first = gather(source, np.arange(min(count, config.eval.batch_size)))
    return found | budget(model, first["x"], given_conditions(trained.experiment, first), seed)


def evaluate_missing(
    model: ScoreModel, experiment: Experiment, shards: Shards, source, count: int, levels, seed: int, size: int
):
    """Computes the missing of `count` examples, `size` at a time; False if SIGTERM or Ctrl-C stopped it."""
    options, key = experiment.config.eval.bpd, jax.random.key(seed)

    def batch(first: int) -> tuple[np.ndarray, np.ndarray]:
        rows = gather(source, np.minimum(np.arange(first, first + size), len(source) - 1))
        x, cond = rows["x"], given_conditions(experiment, rows)
        bits = np.full((size, 2), np.nan)
        try:
            if levels is not None:
                bound = model.elbo(key, x, options.elbo_times, levels, cond, first=first)
                bits[:, 1] = nats_to_bits(bound.value, x[0].size)
            bits[:, 0] = model.bits_per_dim(key, x, options.samples, cond=cond, first=first)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.eval.bpd: {error}") from error
        bits = bits[: len(source) - first]
        why = "the score is not finite, or max_steps of the solver in config.eval.likelihood is too small"
        require_finite(bits if levels is not None else bits[:, :1], first, "example", why)
        return bits, np.zeros(len(bits), int)

    return fill(shards, count, batch, "example", lambda bits, _: f"{np.mean(bits[:, 0]):.4f} bits/dim")


def levels_of(trained: Trained) -> np.ndarray:
    """All values that an entry of the data can take."""
    transform = trained.experiment.transform
    if not (hasattr(transform, "low") and hasattr(transform, "high")):
        raise ConfigError(
            f"config.eval.bpd.elbo_times: the ELBO requires the levels of the data, which {type(transform).__name__} "
            f"does not specify; Scale(low, high) does"
        )
    return np.arange(transform.low, transform.high + 1)


def budget(model: ScoreModel, x: np.ndarray, cond: Any, seed: int) -> dict:
    """NFE and mean errors of log p over a batch; nothing if the batch is smaller than the number of devices."""
    size = len(x) // model.split.num_devices * model.split.num_devices
    if not size:
        return {}
    x, cond = x[:size], jax.tree.map(lambda a: a[:size], cond)
    found = model.log_prob(jax.random.key(seed), x, cond)
    in_bits = {
        name: float(np.mean(np.abs(getattr(found, name))) / x[0].size / np.log(2))
        for name in ("solver", "probes", "truncation")
    }
    return {"nfe": float(np.mean(found.nfe))} | {k: v for k, v in in_bits.items() if np.isfinite(v)}


def text_of(found: dict) -> str:
    """A line for the report."""
    parts = [
        f"{found[name]['mean']:.4f} ± {found[name]['error']:.4f} bits/dim by the {what}"
        for name, what in (("flow", "flow"), ("elbo", "reverse SDE's bound"))
        if name in found
    ]
    errors = [f"{name} {found[name]:.1e}" for name in ("solver", "probes", "truncation") if name in found]
    cost = f"NFE {found['nfe']:.4g} per log p" if "nfe" in found else ""
    return f"{'; '.join(parts)}: {found['count']} {found['split']} examples. {'; '.join([cost, *errors])}\n"
