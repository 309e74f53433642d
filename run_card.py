"""The card of a checkpoint: what its weights were made from and by, how, and how to know them again."""

import json
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

from configs.spec import to_json
from data_lib import Dataset
from run_evaluation import code_version
from run_parts import digest
from sde_lib.training import TrainState

FORMAT = 1
PROTOCOL = ("shape", "transform", "sde", "parameterization", "network", "loss", "optimizer")


def data_of(config: ConfigDict, dataset: Dataset, given: bool) -> dict[str, Any]:
    """What the card says of the data; `given` are those that came as arrays in place of config.data."""
    source = "given to run_lib.train" if given else json.loads(to_json(config))["data"]
    return {"source": source, "train": len(dataset.train), "heldout": len(dataset.heldout)}


def card_of(config: ConfigDict, data: dict[str, Any]) -> dict[str, Any]:
    """What holds for all checkpoints of a run: `signed` adds what each has of its own."""
    described = json.loads(to_json(config))
    return {
        "format": FORMAT,
        "data": data,
        "licence": described.get("licence") or "not stated",
        "ema": f"rate {config.training.ema}; what sampling and evaluation use",
        "training": {"seed": config.seed, "batch_size": config.training.batch_size},
        "protocol": {name: described[name] for name in PROTOCOL if name in described},
        "code": code_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax")},
    }


def signed(card: dict[str, Any], state: TrainState) -> dict[str, Any]:
    """The card of one state: with its step, and the SHA-256 of its parameters and of their average."""
    hashes = {name: digest(getattr(state, name)) for name in ("params", "ema_params")}
    return {"step": int(state.step), "hash": hashes, **card}
