"""Whether conditional samples have the right spread and use their condition: coverage of intervals, and their mean.

For N test examples, S samples each are drawn with the condition of the example.

    coverage   fraction of the examples inside the central interval of their S samples (`eval_lib.interval_coverage`),
               mean over coordinates: the level itself, if x and the samples have one conditional distribution
    residual   √(mean (x − x̄)² / Var x), with x̄ the mean of the S samples: 1 without use of the condition, less with it
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, gather
from eval_lib import interval_coverage
from io_lib.shards import Shards, mapped
from run_modes.conditions import given_conditions
from run_modes.sample import draw, shards_of
from run_modes.sample_conditions import of_rows
from run_modes.trained import Trained

LEVELS = (0.5, 0.8, 0.9, 0.95)


def wanted(trained: Trained) -> bool:
    """Whether config.eval.intervals names a number of examples. ConfigError unless the network has conditions."""
    options = trained.config.eval.get("intervals", ConfigDict())
    if not options.get("examples", 0):
        return False
    if trained.experiment.conditions is None:
        raise ConfigError("config.eval.intervals.examples: the run has no conditions (config.cond is empty)")
    if options.draws < 39:
        raise ConfigError(f"config.eval.intervals.draws={options.draws}: the interval of 95 % requires 39 or more")
    return True


def intervals_of(trained: Trained, dataset: Dataset, seed: int, folder: Path) -> dict | None:
    """Coverage and residual, as at the head, of config.eval.intervals; None if a signal stopped it.

    Samples are cached as they are drawn, and stored in folder/intervals.npz: sample i has the condition of example
    i mod N.
    """
    options, experiment = trained.config.eval.intervals, trained.experiment
    count = min(options.examples, len(dataset.test))
    rows = gather(dataset.test, np.arange(count))
    conditions = of_rows(experiment, given_conditions(experiment, rows))
    made = shards_of(trained, seed, conditions).made_with
    shards = Shards(folder / "shards", f"intervals_step{trained.step}", {"samples": made})
    total = count * options.draws
    if not draw(trained, shards, total, seed, conditions):
        return None
    shards.union(folder / "intervals.npz", total)
    draws = np.asarray(mapped(folder / "intervals.npz"), np.float64).reshape(options.draws, count, *experiment.shape)
    truth = np.asarray(experiment.form.of_data(rows["x"]), np.float64)
    found = interval_coverage(truth, draws, LEVELS)
    variance = np.mean((truth - truth.mean(0)) ** 2)
    residual = float(np.sqrt(np.mean((truth - draws.mean(0)) ** 2) / variance)) if variance else float("nan")
    return {
        "examples": count,
        "draws": options.draws,
        "level": list(LEVELS),
        "coverage": found.coverage.reshape(len(LEVELS), -1).mean(1).tolist(),
        "error": found.error.tolist(),
        "residual": residual,
    }


def text_of(found: dict) -> str:
    """A line for the report."""
    each = zip(found["level"], found["coverage"], found["error"], strict=True)
    covered = ", ".join(f"{coverage:.3f} of {level:g} (± {error:.2g})" for level, coverage, error in each)
    return (
        f"Coverage of central intervals of {found['draws']} samples for each of {found['examples']} test conditions: "
        f"{covered}; residual of their mean {found['residual']:.3f} deviations of x\n"
    )
