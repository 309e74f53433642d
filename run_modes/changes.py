"""What may change when the training of a work directory resumes.

    always              logging, checkpoints kept, steps per call, pictures; sampling, evaluation; the place of the data
    always, and said    the number of steps, with the end of the learning rate's decay if that is the last step
    with --continue     optimizer, EMA, batch size, loss, times, augmentation, other data: from the current step on
    never               everything else, which makes another run; config.initial starts it from these parameters

What changed is a line of config_history.jsonl: the step, the time and the changes. It is also in the card of all later
checkpoints. config.json is then the new config. A resume without a change continues bit for bit.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from config_lib.spec import ConfigError, diff, to_json, with_defaults
from data_lib.identity import Identity, differences
from io_lib import workdir
from run_modes.paths import with_absolute_paths

HISTORY, DATA = "config_history.jsonl", "data.json"

FREE = (
    *("config.sampling.", "config.eval.", "config.restore.", "config.license", "config.initial"),
    *(f"config.training.{name}_every" for name in ("log", "eval", "sample", "checkpoint", "keep")),
    *("config.training.keep_newest", "config.training.snapshot_size", "config.training.steps_per_call"),
    *("config.training.accumulate", "config.training.writers", "config.training.wandb_project"),
)
"""Beginnings of the keys that no parameter depends on, beyond rounding."""
FROM_HERE = (
    *("config.optimizer.", "config.training.", "config.loss.", "config.time_distribution.", "config.objective."),
    *("config.augmentation.", "config.data"),
)
"""Beginnings of the keys that may change from a step on."""


def accepted(
    directory: Path, config: ConfigDict, data: Identity, step: int, insist: bool
) -> tuple[ConfigDict, list[str]]:
    """(the config to resume with, its changes in lines) for a directory whose newest checkpoint is of `step`.

    `insist` is --continue. ConfigError that names the changes that are not allowed, and what to do.
    """
    saved = with_absolute_paths(workdir.load_config(directory))  # until 0.1 a path depended on the current folder
    if "initial" in config:
        config = config.copy_and_resolve_references()
        config.initial = saved.get("initial", "")  # it applies at step 0
    changes = changes_between(saved, config)
    moved = [line for line in changes if line.startswith("config.data")]
    other_data = differences(saved_data(directory) or data, data)
    if moved and not saved_data(directory):
        other_data = other_data or ["it is not recorded which data it was trained on"]
    longer = _longer(saved, config)
    refused, insisted = [], []
    for line in changes:
        key = line.split(":")[0]
        if key.startswith(FREE) or key in longer or (line in moved and not other_data):
            continue
        (insisted if key.startswith(FROM_HERE) else refused).append(line)
    if refused:
        raise ConfigError(
            f"{directory} belongs to a run with another config: {workdir.some(refused + insisted, '; ')}. Choose "
            f"another --workdir; --config.initial={directory} starts it from these parameters"
        )
    if other_data and not insist:
        raise ConfigError(
            f"{directory} was trained on other data: {'; '.join(other_data)}. Choose another --workdir, or pass "
            f"--continue to train on these from step {step} on"
        )
    if insisted and not insist:
        raise ConfigError(
            f"{directory} belongs to a run with another config: {workdir.some(insisted, '; ')}. Choose another "
            f"--workdir, or pass --continue to apply this from step {step} on"
        )
    said = [line for line in changes if not (line.startswith(FREE) and ": (absent) -> " in line)]
    return config, [*said, *(f"data: {line}" for line in other_data)]


def changes_between(saved: ConfigDict, config: ConfigDict) -> list[str]:
    """The lines of `diff`, without parameters and empty sections that a later version has added."""
    changes = diff(with_defaults(saved), with_defaults(config))
    return [line for line in changes if not line.endswith(": (absent) -> {}")]


def _longer(saved: ConfigDict, config: ConfigDict) -> tuple[str, ...]:
    """The keys that a changed number of steps changes: with it, the end of a decay that was at the last step."""
    steps = "config.training.num_steps"
    old, new = (c.get("training", ConfigDict()).get("num_steps") for c in (saved, config))
    decays = tuple(c.get("optimizer", ConfigDict()).get("decay_steps") for c in (saved, config))
    if decays[0] == decays[1]:
        return (steps,)
    grows = decays == (old, new) and None not in decays and new > old
    return (steps, "config.optimizer.decay_steps") if grows else ()


def remarks(config: ConfigDict, changes: list[str], step: int) -> list[str]:
    """What to say about changes that take effect at `step`."""
    found = [f"from step {step} on, {line}" for line in changes]
    optimizer, total = config.optimizer, config.training.num_steps
    decay = optimizer.get("decay_steps")
    if any(line.startswith("config.optimizer.decay_steps") for line in changes):
        found.append(
            f"the learning rate follows the longer decay from step {step} on: along a half cosine to 0 at step {decay}"
        )
    if decay is not None and decay < total and str(optimizer.get("call", "")).endswith(":adam"):
        found.append(
            f"the learning rate is 0 from step {decay} on, and training ends at step {total}: set "
            f"config.optimizer.decay_steps={total} to learn until then"
        )
    return found


def record(directory: Path, config: ConfigDict, data: Identity, step: int, changes: list[str], **more: Any) -> None:
    """Writes config.json, data.json, and a line of config_history.jsonl if anything changed or `more` is given."""
    known = any(line.get(name) == value for line in history(directory) for name, value in more.items())
    if changes or (more and not known):  # known: a run that was killed before its first checkpoint
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        lines = [*history(directory), {"step": step, "time": now, "changes": changes, **more}]
        workdir.write_atomic(directory / HISTORY, "".join(json.dumps(line) + "\n" for line in lines))
    if diff(workdir.load_config(directory), config):  # also keys that a later version added
        workdir.write_atomic(directory / workdir.CONFIG, to_json(config))
    if saved_data(directory) != data:
        workdir.write_atomic(directory / DATA, json.dumps(data, indent=1))


def history(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of config_history.jsonl: empty for a run that was never changed."""
    path = Path(directory) / HISTORY
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def saved_data(directory: str | Path) -> Identity | None:
    """The identity of the data that the run is trained on; None for runs of earlier versions and imports."""
    path = Path(directory) / DATA
    return json.loads(path.read_text()) if path.is_file() else None
