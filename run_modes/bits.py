"""Bits per dimension of a data split, by the flow and, where asked for, by the reverse SDE: kept batch by batch."""

import hashlib
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, gather
from io_lib.shards import Shards, fill, mapped
from run_modes.labels import for_network
from run_modes.trained import Trained, made_with, require_finite
from sde_lib import ScoreModel, nats_to_bits

SPLITS = ("test", "train")


def wanted(config: ConfigDict) -> bool:
    """Whether config.eval.bpd asks for them. ConfigError for an unknown split."""
    split = config.eval.get("bpd", {}).get("split", "")
    if split not in ("", *SPLITS):
        raise ConfigError(f"config.eval.bpd.split is {split!r}: expected one of {', '.join(SPLITS)}, or '' for none")
    return bool(split)


def bits_of(trained: Trained, dataset: Dataset, seed: int, folder: Path) -> dict | None:
    """What config.eval.bpd asks for, as numbers that JSON can hold; each example's values in folder/bits_SPLIT.npz.

    split, count   of the examples, from the first
    flow           bits per dimension of the ODE: mean and its standard error over the examples, which holds the spread
                   of dequantization and probes; `samples` importance samples each
    elbo           the bound of the reverse SDE likewise, with the decoder of discrete data
    evaluations    of the score and its divergence, for one log p(x), mean over the first batch
    solver, probes, truncation      of that batch, in bits per dimension: mean errors as `LogProb` estimates them

    Batches are kept as they are done, so what was killed goes on; None where a signal stopped it. ConfigError for data
    that are not of an integer type, or an ELBO whose levels the transform does not tell.
    """
    config, options = trained.config, trained.config.eval.bpd
    source = getattr(dataset, options.split)
    count = min(options.count or len(source), len(source))
    model = jax.device_put(
        trained.model.replace(split=trained.experiment.devices.batch), trained.experiment.devices.replicated
    )
    levels = levels_of(trained) if options.elbo_times else None
    asked = {"bits": options.to_dict() | {"count": 0}, "likelihood": config.eval.get("likelihood"), "data": config.data}
    asked["examples"] = digest_of(source)
    shards = Shards(folder / "shards", f"bits_{options.split}_step{trained.step}", made_with(trained, seed, asked))
    if not evaluate_missing(model, shards, source, count, levels, config, seed):
        return None
    file = folder / f"bits_{options.split}.npz"
    shards.union(file, count)
    found = {"split": options.split, "count": count, "samples": options.samples}
    for name, column in zip(("flow", "elbo"), np.asarray(mapped(file)).T, strict=True):
        if not np.all(np.isnan(column)):
            found[name] = {"mean": float(np.mean(column)), "error": float(np.std(column) / np.sqrt(count))}
    first = for_network(config, gather(source, np.arange(min(count, config.eval.batch_size))))
    return found | budget(model, first["x"], first.get("label"), seed)


def evaluate_missing(model: ScoreModel, shards: Shards, source, count: int, levels, config: ConfigDict, seed: int):
    """Whether all `count` examples are done at the end: not if SIGTERM or Ctrl-C came before."""
    options, size, key = config.eval.bpd, config.eval.batch_size, jax.random.key(seed)

    def batch(first: int) -> tuple[np.ndarray, np.ndarray]:
        rows = for_network(config, gather(source, np.minimum(np.arange(first, first + size), len(source) - 1)))
        x, cond = rows["x"], rows.get("label")
        bits = np.full((size, 2), np.nan)
        try:
            if levels is not None:
                bound = model.elbo(key, x, options.elbo_times, levels, cond, first=first)
                bits[:, 1] = nats_to_bits(bound.value, x[0].size)
            bits[:, 0] = model.bits_per_dim(key, x, options.samples, cond=cond, first=first)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.eval.bpd: {error}") from error
        bits = bits[: len(source) - first]
        why = "the score is not finite, or the solver's max_steps in config.eval.likelihood were not enough"
        require_finite(bits if levels is not None else bits[:, :1], first, "example", why)
        return bits, np.zeros(len(bits), int)

    return fill(shards, count, batch, "example", lambda bits, _: f"{np.mean(bits[:, 0]):.4f} bits/dim")


def digest_of(source) -> str:
    """What tells one split from another: of data in memory all of them, else their number and some."""
    whole = {"x": getattr(source, "x", None), "label": getattr(source, "label", None)}
    some = gather(source, np.unique(np.linspace(0, len(source) - 1, 64).astype(int))) if whole["x"] is None else whole
    found = hashlib.sha256(str(len(source)).encode())
    for name in sorted(name for name, value in some.items() if value is not None):
        found.update(f"{name} {some[name].dtype} {some[name].shape}".encode())
        found.update(np.ascontiguousarray(some[name]).tobytes())
    return found.hexdigest()[:16]


def levels_of(trained: Trained) -> np.ndarray:
    """All values that an entry of the data can take."""
    transform = trained.experiment.transform
    if not (hasattr(transform, "low") and hasattr(transform, "high")):
        raise ConfigError(
            f"config.eval.bpd.elbo_times: the ELBO needs the data's levels, which {type(transform).__name__} does not "
            f"tell; Scale(low, high) does"
        )
    return np.arange(transform.low, transform.high + 1)


def budget(model: ScoreModel, x: np.ndarray, cond: np.ndarray | None, seed: int) -> dict:
    """Evaluations and mean errors of log p over a batch."""
    size = len(x) // model.split.num_devices * model.split.num_devices
    if not size:
        return {}
    x, cond = x[:size], cond if cond is None else cond[:size]
    found = model.log_prob(jax.random.key(seed), x, cond)
    in_bits = {
        name: float(np.mean(np.abs(getattr(found, name))) / x[0].size / np.log(2))
        for name in ("solver", "probes", "truncation")
    }
    return {"evaluations": float(np.mean(found.evaluations))} | {k: v for k, v in in_bits.items() if np.isfinite(v)}


def text_of(found: dict) -> str:
    """A line for the report."""
    parts = [
        f"{found[name]['mean']:.4f} ± {found[name]['error']:.4f} bits/dim by the {what}"
        for name, what in (("flow", "flow"), ("elbo", "reverse SDE's bound"))
        if name in found
    ]
    errors = [f"{name} {found[name]:.1e}" for name in ("solver", "probes", "truncation") if name in found]
    cost = f"{found['evaluations']:.4g} evaluations for a log p" if "evaluations" in found else ""
    return f"{'; '.join(parts)}: {found['count']} {found['split']} examples. {'; '.join([cost, *errors])}\n"
