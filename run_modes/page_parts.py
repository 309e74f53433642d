"""The parts of a run's page (`run_modes.page`), each read from the files of a work directory."""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from config_lib.spec import to_json
from io_lib import workdir
from io_lib.checkpoint import Checkpoints
from io_lib.embedded import Space
from io_lib.line_chart import Series
from io_lib.metrics import read_metrics
from io_lib.pictures import smooth
from io_lib.run_page import Chart, Fold, Links, Listing, Part, Slider, Stored, Table, Text, stored_in
from run_modes.base_config import nearest_shipped, recorded_base
from run_modes.changes import history

PAGE = "index.html"
FILES, FOLDERS = 24, 4  # files, or folders of restorations, in a section; folders of evaluations
CHARTS = 9
HEARD = 8  # sounds of a restoration
TEXT, CELL, ROWS = 12_000, 300, 100  # characters of a text and of a cell, rows of a table
LISTING = 60_000  # characters of a config, a card or a report
NOT_SHOWN = ("format", "protocol", "process", "history")  # entries of a card that only the whole card shows


# Training


def metrics_of(directory: Path) -> list[dict]:
    """The lines of metrics.jsonl; none if the run has no such file, as an imported one."""
    try:
        return read_metrics(directory)
    except FileNotFoundError:
        return []


def loss_charts(directory: Path) -> list[Part]:
    """A chart of the training loss, smoothed over 1/40 of the run, with the test loss; and one of each other scalar."""
    lines = metrics_of(directory)
    names = sorted({name for line in lines for name in line} - {"step"})
    names = [name for name in names if not (name.startswith("eval_") and name.removeprefix("eval_") in names)]
    names = sorted(names, key=lambda name: name.removeprefix("eval_") != "loss")
    charts = [scalar_chart(lines, name) for name in names[:CHARTS]]
    more = [Text(f"Not shown: {cut(', '.join(names[CHARTS:]), CELL)}.")] if len(names) > CHARTS else []
    return [*charts, *more]


def scalar_chart(lines: list[dict], name: str) -> Chart:
    x, y = column(lines, name)
    tested = column(lines, f"eval_{name}")
    if name.startswith("eval_"):
        return Chart(cut(name, 60), [Series("", x, y, "points", 1)], "step", cut(name, 30))
    width = max(1, len(y) // 40)
    series = [Series("", x, y, "faint")] if width > 1 else []
    series.append(
        Series("training, smoothed" if width > 1 else "training", x, [float(v) for v in smooth(np.asarray(y), width)])
    )
    series += [Series("test", *tested, "points", 1)] if tested[0] else []
    return Chart(cut(name, 60), series, "step", cut(name, 30))


def column(lines: list[dict], name: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of one scalar."""
    found = [(float(line["step"]), float(line[name])) for line in lines if name in line]
    found = [(step, value) for step, value in found if abs(value) < float("inf")]
    return [step for step, _ in found], [value for _, value in found]


def snapshots(directory: Path, space: Space) -> list[Part]:
    """samples/step_*.png under a slider, as many as fit."""
    space.reserve(0)
    names = {path: re.fullmatch(r"step_(\d+)", path.stem) for path in files(directory / "samples", "step_*.png")}
    found = sorted((int(name[1]), path) for path, name in names.items() if name)
    frames = space.frames([f"step {step:,}" for step, _ in found], [path for _, path in found])
    parts: list[Part] = []
    if frames:
        parts.append(Slider("samples over the steps of training, from the same noise", frames))
    if any(frame.kind != "image/png" for frame in frames) or len(frames) < len(found):
        parts.append(
            Text(f"{len(frames)} of {len(found)} snapshots, evenly chosen or reduced to keep this page small.")
        )
    return parts


# Samples


def files(folder: Path, *patterns: str) -> list[Path]:
    """The files of these patterns in the folder, sorted by name."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def sample_parts(directory: Path, space: Space) -> list[Part]:
    """The picture of the samples, and their animation."""
    folder, parts = directory / "samples", []
    for name, title in (("samples.png", "the newest samples"), ("animation.gif", "from noise to data")):
        for path in files(folder, name):
            parts += space.media(title, path)
    return [*parts, *space.note()]


def sounds(directory: Path, space: Space) -> list[Part]:
    """The .wav files of samples and evaluations, in at most half of the space that is left."""
    space.reserve(0.5)
    paths, parts = under(directory, ".wav"), []
    for path in paths[:FILES]:
        parts += space.media(path.name, path)
    space.left_out += paths[FILES:]
    return [*parts, *space.note()]


def texts(directory: Path) -> list[Part]:
    """The .txt files of samples and evaluations, cut after TEXT characters."""
    paths, parts = [*files(directory, "restored/*/*.txt"), *under(directory, ".txt")], []
    for path in paths[:FILES]:
        with open(path, errors="replace") as file:
            content = file.read(TEXT + 1)
        parts += [Text(cut(path.relative_to(directory).as_posix(), CELL)), Listing(cut(content, TEXT))]
    more = [path.relative_to(directory).as_posix() for path in paths[FILES:]]
    return [*parts, *([Links(f"Left out ({len(more)} files):", more[:5])] if more else [])]


def under(directory: Path, ending: str) -> list[Path]:
    """The files of that ending in samples/ and the folders of evaluations, and in their folders, without caches."""
    folders = [directory / "samples", *evaluations(directory)]
    folders += [one for folder in folders for one in sorted(folder.glob("*")) if one.is_dir()]
    folders = [folder for folder in folders if folder.name not in ("shards", "features")]
    return [path for folder in folders for path in files(folder, f"*{ending}", f"*{ending.upper()}")]


# Evaluation


def evaluations(directory: Path) -> list[Path]:
    """The folders of the directory that evaluation wrote to, at most FOLDERS; eval/ is the first."""
    found = dict.fromkeys(path.parent for path in files(directory, "*/report.json", "*/reproduced.json"))
    found = [folder for folder in found if not is_restoration(folder)]
    return sorted(found, key=lambda folder: (folder.name != "eval", folder.name))[:FOLDERS]


def is_restoration(folder: Path) -> bool:
    """Whether the folder has the report of a restoration."""
    try:
        return "task" in json.loads((folder / "report.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def title_of(folder: Path) -> str:
    return "Evaluation" if folder.name == "eval" else f"Evaluation: {cut(folder.name, 60)}"


def evaluation(folder: Path) -> list[Part]:
    """The figures with their spread, the loss against t, the expected figures, and the whole report."""
    parts: list[Part] = []
    report = json.loads((folder / "report.json").read_text()) if (folder / "report.json").is_file() else {}
    whole = markdown(folder / "report.md")
    rows = figure_rows(report)
    if rows:
        floors = report.get("metrics", {}).get("floors", {})
        what = f"floor: {floors['rows']} {floors['split']} examples" if floors else ""
        rows = [row if floors else row[:2] for row in rows]
        parts.append(table(["figure", f"mean ± sd, {seeds_of(report)} seeds" if seeds_of(report) > 1 else "value",
                            *([what] if floors else [])], rows, numbers=True))  # fmt: skip
    if (folder / "reproduced.json").is_file():
        parts += reproduced(json.loads((folder / "reproduced.json").read_text()))
    for name, curve in report.items():
        if name.endswith("_of_t") and isinstance(curve, dict) and {"t", "loss", "error"} <= curve.keys():
            label = cut(name.removesuffix("_of_t"), 30)
            series = [Series("± standard error", curve["t"], curve["loss"], "bars", 0, curve["error"])]
            parts.append(Chart(f"{label} against t, test data", series, "t", label))
    return [*parts, *([Fold("The report", whole)] if rows and whole else whole)]


def figure_rows(report: dict) -> list[list[str]]:
    """[figure, mean ± sd, floor] of a report's metrics, bits per dimension, and report over the seeds."""
    metrics = report.get("metrics", {})
    names, floors = metrics.get("names", {}), metrics.get("floors", {}).get("figures", {})
    rows = [
        [names.get(key, key), spread(one["mean"], one.get("sd")), format(floors[key], ".4g") if key in floors else ""]
        for key, one in metrics.get("figures", {}).items()
    ]
    for name, what in (("flow", "bits/dim by the flow"), ("elbo", "bits/dim by the reverse SDE's bound")):
        if one := (report.get("bits") or {}).get(name):
            rows.append([f"{what}, ± standard error", spread(one["mean"], one["error"]), ""])
    if text := report.get("text_bits"):
        rows.append(
            ["bits/character (bound), ± standard error", spread(text["bits"]["mean"], text["bits"]["error"]), ""]
        )
        for n, name in (("1", "unigram"), ("2", "bigram"), ("3", "trigram")):
            rows.append([f"bits/character of the {name}", spread(text["ngrams"][n]["mean"], None), ""])
    several = {name: one for name, one in report.get("over_seeds", {}).items() if one.get("sd")}
    return rows + [[name, spread(one["mean"], one["sd"]), ""] for name, one in several.items()]


def seeds_of(report: dict) -> int:
    figures = [*report.get("metrics", {}).get("figures", {}).values(), *report.get("over_seeds", {}).values()]
    return max((len(one["each"]) for one in figures if "each" in one), default=1)


def spread(mean: float, sd: float | None) -> str:
    return f"{mean:.4g}" if sd is None else f"{mean:.4g} ± {sd:.2g}"


def reproduced(found: dict) -> list[Part]:
    """The table of --mode=reproduce: expected figures, and those that were measured."""
    rows = [
        [name, one["expected"], spread(one["mean"], one["sd"]), "passed" if one["passed"] else "missed"]
        for name, one in found["figures"].items()
    ]
    return [table(["expected figure", "expected", "measured", ""], rows)]


def markdown(path: Path) -> list[Part]:
    """A report's paragraphs and tables; nothing if there is no such file."""
    if not path.is_file():
        return []
    parts: list[Part] = []
    for block in re.split(r"\n\s*\n", cut(path.read_text(errors="replace"), LISTING)):
        lines = [line.strip() for line in block.strip().splitlines()]
        if len(lines) > 2 and all(line.startswith("|") for line in lines):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            parts.append(table(cells[0], cells[2:]))
        elif lines:
            parts += [Text(line.removeprefix("- ")) for line in lines[:ROWS]]
    return parts


def evaluation_pictures(folder: Path, space: Space) -> list[Part]:
    """Samples next to data, the nearest training examples, and other pictures; the page draws the losses itself."""
    titles = {
        "samples.png": "samples next to training examples",
        "neighbors.png": "nearest neighbors: a sample, and its five nearest training examples",
        "marginals.png": "samples and data, coordinate by coordinate",
    }
    paths = sorted(files(folder, "*.png"), key=lambda path: [*titles, path.name].index(path.name))
    parts, paths = [], [path for path in paths if path.name not in ("loss.png", "loss_of_t.png")]
    for path in paths[:FILES]:
        parts += space.media(titles.get(path.name, path.stem), path)
    space.left_out += paths[FILES:]
    return [*parts, *space.note()]


def restored_parts(directory: Path, space: Space) -> list[Part]:
    """The picture, the first sounds, and the mean figures of each folder with a restoration."""
    parts: list[Part] = []
    folders = [path.parent for path in files(directory, "restored/*/report.json", "*/report.json")]
    for folder in [folder for folder in folders if is_restoration(folder)][:FILES]:
        found, task = json.loads((folder / "report.json").read_text()), cut(folder.name, 60)
        for path in files(folder, "restored.png"):
            parts += space.media(task, path)
        for path in files(folder, "*.wav")[:HEARD]:
            parts += space.media(path.name, path)
        rows = [["measurements", str(len(found.get("each", [])))], ["noise_std", f"{found['noise_std']:g}"]]
        rows += [[name, f"{value:.4g}"] for name, value in found["mean"].items()]
        parts.append(table([task, "mean"], rows, numbers=True))
    return [*parts, *space.note()]


# Config and card


def config_parts(directory: Path) -> list[Part]:
    """What differs from the nearest shipped config, the changes of the run, and the whole config."""
    config, parts = workdir.load_config(directory), []
    recorded = recorded_base(directory, config)
    if (base := recorded or nearest_shipped(config)) is not None:
        name, rows = base
        what = "The run was started with" if recorded else "The nearest shipped config is"
        count = f"{len(rows)} entries differ" if len(rows) != 1 else "one entry differs"
        parts.append(Text(f"{what} {name}: {count if rows else 'no entry differs'}."))
        shown = [table(["entry", name, "this run"], [[key, *values] for key, values in rows.items()])] if rows else []
        parts += [Fold("What differs", shown)] if len(rows) > 30 else shown
    lines = history(directory)
    rows = [[f"{line['step']:,}", line["time"], change] for line in lines for change in line["changes"]]
    rows += [
        [f"{line['step']:,}", line["time"], f"parameters start as those of {line['initial']['directory']}"]
        for line in lines
        if "initial" in line
    ]
    parts += [table(["step", "time", "change"], rows)] if rows else []
    return [*parts, Fold("The whole config", [Listing(cut(to_json(config), LISTING))])]


def newest_card(directory: Path) -> dict[str, Any] | None:
    """The card of the newest checkpoint, from the page that is there if possible; None if there is none.

    In several processes a checkpoint is not opened, since all of them would have to.
    """
    folder = directory / "checkpoints"
    step = max((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()), default=None)
    if step is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        found = stored_in((directory / PAGE).read_bytes())
        if isinstance(found, dict) and found.get("step") == step:
            return found
    if jax.process_count() > 1:
        return None
    with Checkpoints(folder) as checkpoints:
        return checkpoints.card(step)


def card_parts(card: dict[str, Any] | None) -> list[Part]:
    """The card's entries, and the whole card."""
    if not card:
        return []
    rows = [[key, in_words(value)] for key, value in card.items() if key not in NOT_SHOWN]
    whole = json.dumps(card, indent=1)
    parts: list[Part] = [table(["", ""], rows), Fold("The whole card", [Listing(cut(whole, LISTING))])]
    return [*parts, Stored(card)] if len(whole) < LISTING else parts


def in_words(value: Any) -> str:
    """Nested entries in one line: `seed 42, batch_size 64`; `sha256 (train b1102a, test 551f60)`."""
    if isinstance(value, dict):
        one = lambda v: f"({in_words(v)})" if isinstance(v, dict | list) else in_words(v)  # noqa: E731
        return ", ".join(f"{key} {one(v)}" for key, v in value.items())
    return ", ".join(map(in_words, value)) if isinstance(value, list) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False) -> Table:
    """A table whose cells are cut after CELL characters, and whose rows after ROWS."""
    more = [[f"… and {len(rows) - ROWS} more"]] if len(rows) > ROWS else []
    return Table([cut(str(cell), CELL) for cell in head],
                 [[cut(str(cell), CELL) for cell in row] for row in rows[:ROWS]] + more, numbers)  # fmt: skip


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} …"
