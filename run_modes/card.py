"""The card of a checkpoint: data, configuration, code and versions of its training, and hashes of its weights."""

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import to_json
from data_lib import Dataset
from data_lib.identity import Identity, identity
from run_modes.labels import class_counts
from run_modes.state import digest
from sde_lib import SDE, TrainState
from sde_lib.sde import has_kernel, per_time

FORMAT = 1
DEFAULT_GENERATOR = "threefry2x32"
PROTOCOL = (
    *("shape", "transform", "sde", "parameterization", "network"),
    *("objective", "loss", "time_distribution", "optimizer"),
)


def data_of(config: ConfigDict, dataset: Dataset, given: bool, known: Identity | None = None) -> dict[str, Any]:
    """The card's entry about the data; `given` means that arrays were passed to `train`. `known` is the identity
    of the data if it was computed already, which reads all of them.

    `classes` are the training examples per class, of a network with classes and labels in memory; `class_names` are
    the names of the classes, where the data have them.
    """
    source = "given to run_lib.train" if given else json.loads(to_json(config))["data"]
    found = known or identity(dataset)
    counts = {name: split["count"] for name, split in found.items()}
    hashes = {name: split["sha256"] for name, split in found.items()}
    classes = class_counts(config, dataset)
    names = [str(name) for name in getattr(dataset.train, "classes", ())] if classes else []
    return {
        **{"source": source, **counts, "sha256": hashes},
        **({"classes": list(classes)} if classes else {}),
        **({"class_names": names} if names else {}),
    }


def fingerprint(sde: SDE, times: int = 8) -> dict[str, list[float]]:
    """α and σ of a process at `times` equidistant t, or g without a kernel; the mean where coordinates differ."""
    t = jnp.linspace(float(sde.t_min), float(sde.t_max), times)
    names = ("alpha", "sigma") if has_kernel(sde) else ("alpha" if hasattr(sde, "alpha") else "diffusion",)
    # Compiled: operation by operation it takes a second.
    values = jax.jit(lambda sde, t: {name: per_time(getattr(sde, name)(t), t) for name in names})(sde, t)
    return {name: [float(f"{v:.6g}") for v in np.asarray(column)] for name, column in {"t": t, **values}.items()}


def card_of(
    config: ConfigDict, data: dict[str, Any], history: list[dict] | None = None, sde: SDE | None = None
) -> dict[str, Any]:
    """The entries that all checkpoints of a run share; `signed` adds those of one checkpoint.

    `history` lists the changes of the run (`run_modes.changes`); the process's `fingerprint` is recorded too.
    """
    described = json.loads(to_json(config))
    return {
        "format": FORMAT,
        "data": data,
        "license": described.get("license") or "not stated",
        "ema": f"rate {config.training.ema}; used in sampling and evaluation",
        "training": {"seed": config.seed, "batch_size": config.training.batch_size},
        "protocol": {name: described[name] for name in PROTOCOL if name in described},
        **({"history": history} if history else {}),
        **({} if sde is None else {"process": fingerprint(sde)}),
        "generator": generator(),
        "code": code_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax")},
    }


def generator() -> str:
    """JAX's random generator in this process: DEFAULT_GENERATOR, unless JAX_DEFAULT_PRNG_IMPL is set."""
    return str(jax.config.jax_default_prng_impl)  # pyright: ignore[reportAttributeAccessIssue]  # has no stub


def signed(card: dict[str, Any], state: TrainState) -> dict[str, Any]:
    """The card of one state, with its step and the SHA-256 of its parameters and of their EMA."""
    hashes = {name: digest(getattr(state, name)) for name in ("params", "ema_params")}
    return {"step": int(state.step), "hash": hashes, **card}


def code_version() -> str:
    """The commit of this code, with -dirty if files differ from it; "unknown" outside a repository."""
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
