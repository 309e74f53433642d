"""--mode=compare: several runs next to each other. It reads files only, and builds nothing.

    losses      the last of training, smoothed as in the plot, and the last and the best on test data
    figures     of each run's last evaluation, if there is one: eval/report.json
    config      the keys that are not the same in all runs

One table for the terminal and for a Markdown page, and one plot of the losses.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config_lib.spec import ConfigError, differing
from io_lib import pictures, workdir
from io_lib.metrics import read_metrics

WIDEST = 40


def compare(directories: Sequence[str | Path], out: str | Path = "compare.png", folder: str = "eval") -> str:
    """Prints and returns a table in Markdown; writes it next to `out`, the plot of the losses, as .md.

    `folder` is the one that evaluation wrote to. ConfigError for fewer than two directories, or one without a run.
    """
    if isinstance(directories, str) or not isinstance(directories, Sequence):
        raise ConfigError(f"directories: expected a list of paths, got {type(directories).__name__} {directories!r}")
    if len(directories) < 2:
        raise ConfigError(f"--workdirs={','.join(map(str, directories))}: expected two or more, as A,B,C")
    names = shortest_names([str(Path(directory)) for directory in directories])
    try:
        configs = [workdir.load_config(directory) for directory in directories]
        metrics = [read_metrics(directory) for directory in directories]
    except FileNotFoundError as error:
        raise ConfigError(f"--workdirs: {error}") from error
    rows = transposed(
        [losses(lines) | figures(Path(d) / folder) for lines, d in zip(metrics, directories, strict=True)]
    )
    changed = {key.removeprefix("config."): values for key, values in differing(configs).items()}
    text = "\n".join([*table("", names, rows), "", *table("config", names, changed)]) + "\n"
    pictures.plot_losses(out, dict(zip(names, metrics, strict=True)))
    workdir.write_atomic(Path(out).with_suffix(".md"), text)
    print(f"{text}wrote {out} and {Path(out).with_suffix('.md')}")
    return text


def losses(metrics: list[dict]) -> dict[str, str]:
    """Step, training loss (mean of the last 1/40 of the lines) and test loss of a run."""
    train = [line["loss"] for line in metrics if "loss" in line]
    test = [(line["eval_loss"], line["step"]) for line in metrics if "eval_loss" in line]
    found = {"step": str(max((line["step"] for line in metrics), default=0))}
    if train:
        last = train[-max(1, len(train) // 40) :]
        found["training loss"] = f"{sum(last) / len(last):.4f}"
    if test:
        best, step = min(test)
        found |= {"test loss": f"{test[-1][0]:.4f}", "best test loss": f"{best:.4f} at step {step}"}
    return found


def figures(folder: Path) -> dict[str, str]:
    """The numbers in report.json of a run's last evaluation, by dotted names; empty if there is none."""
    file = folder / "report.json"
    if not file.is_file():
        return {}
    report = json.loads(file.read_text())
    return {f"{folder.name}: {name}": f"{value:.4g}" for name, value in numbers(report) if name != "seed"}


def numbers(tree: dict[str, Any], above: str = "") -> list[tuple[str, float]]:
    """(dotted name, value) of the numbers in nested dicts; lists are left out."""
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += numbers(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{above}{key}", value))
    return found


def transposed(runs: list[dict[str, str]]) -> dict[str, list[str]]:
    """Row → its entry for each run, in the order in which rows first appear."""
    rows = dict.fromkeys(row for run in runs for row in run)
    return {row: [run.get(row, "") for run in runs] for row in rows}


def table(head: str, names: list[str], rows: dict[str, list[str]]) -> list[str]:
    """A Markdown table; long entries are cut."""
    if not rows:
        return [f"{head}: no difference"]
    cells = [[head, *names], *([row, *(short(value) for value in values)] for row, values in rows.items())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (n + 2) for n in widths) + "|", *lines[1:]]


def short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def shortest_names(paths: list[str]) -> list[str]:
    """The paths without the folders that all of them share."""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(os.path.abspath(path), common) for path in paths]
