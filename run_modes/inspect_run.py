"""--mode=inspect: describes a work directory: step, card, leaves and sizes of its checkpoint, and its config.

Nothing is built, compiled or written, and no class of the config is imported. All leaves are read, and their checksums
verified.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, diff
from io_lib import workdir
from io_lib.checkpoint import Checkpoints, DamagedError
from run_modes.changes import history

Leaves = dict[str, tuple[str, tuple[int, ...]]]


def inspect(directory: str | Path, step: int | None = None) -> str:
    """Prints and returns the description of the checkpoint of `step`, or the newest.

    ConfigError if it is not a work directory or has no such checkpoint. Damage to the checkpoint is reported.
    """
    try:
        config = workdir.load_config(directory)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    with Checkpoints(Path(directory) / "checkpoints") as checkpoints:
        steps = checkpoints.steps()
        if not steps or (step is not None and step not in steps):
            raise ConfigError(f"{directory} has no checkpoint{'' if step is None else f' of step {step}'}: {steps}")
        step = steps[-1] if step is None else step
        parts = [f"{directory}: step {step} of {config.get('training', {}).get('num_steps', 'unknown')}; "
                 f"checkpoints of steps {', '.join(map(str, steps))}"]  # fmt: skip
        parts += described(checkpoints, step)
    values = [line.replace("(absent) -> ", "") for line in diff(ConfigDict(), config) if not line.endswith("(absent)")]
    text = "\n".join([*parts, *story(directory), "config", *(f"  {value}" for value in values)])
    print(text)
    return text


def story(directory: str | Path) -> list[str]:
    """What changed at which step, and where the parameters came from; nothing for a run that was never changed."""
    lines = []
    for entry in history(directory):
        start = entry.get("initial")
        lines += [f"  step {entry['step']}: parameters start as those of {start['directory']}"] if start else []
        lines += [f"  step {entry['step']}: {change}" for change in entry["changes"]]
    return ["changes", *lines] if lines else []


def described(checkpoints: Checkpoints, step: int) -> list[str]:
    """The lines about card and leaves, and whether all leaves are as they were written."""
    try:
        lines = ["card", *indented(checkpoints.card(step)), *leaf_lines(checkpoints.leaves(step))]
        checkpoints.verify(step)
    except (DamagedError, ValueError) as error:
        return [f"damaged: {error}"]
    return [*lines, "intact: every leaf is as it was written (CRC-32)"]


def indented(card: dict[str, Any]) -> list[str]:
    """The card's entries, one per line; nested ones as JSON."""
    shown = {key: value if isinstance(value, str) else json.dumps(value) for key, value in card.items()}
    return [f"  {key}: {value}" for key, value in shown.items()] or ["  none: written by an earlier version"]


def leaf_lines(leaves: Leaves) -> list[str]:
    """Dtype, shape and bytes of each leaf, grouped by the fields of the state with their totals."""
    fields: dict[str, Leaves] = {}
    for name, leaf in leaves.items():
        fields.setdefault(name.split(".")[0], {})[name] = leaf
    lines = [f"leaves: {total(leaves)}"]
    for field, members in fields.items():
        lines.append(f"  {field}: {total(members)}")
        lines += [f"    {name} {dtype}{shape} {size(dtype, shape):,} bytes" for name, (dtype, shape) in members.items()]
    return lines


def total(leaves: Leaves) -> str:
    count = sum(math.prod(shape) for _, shape in leaves.values())
    return f"{count:,} numbers in {len(leaves)} leaves, {sum(size(*leaf) for leaf in leaves.values()):,} bytes"


def size(dtype: str, shape: tuple[int, ...]) -> int:
    return jnp.dtype(dtype).itemsize * math.prod(shape)
