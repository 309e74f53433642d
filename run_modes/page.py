"""The page of a run, DIRECTORY/index.html: the contents of its files in one HTML file, which opens without a network.

    Samples       samples/samples.png, animation.gif; samples/step_*.png under a slider
    Losses        metrics.jsonl as charts
    Evaluation    report.json and report.md of each folder that evaluation wrote to, and its pictures
    Restored      restored/TASK/restored.png and the means of its report.json
    Sounds, Texts    .wav and .txt files of samples and evaluations
    Config        what differs from the nearest shipped config; the changes of the run; the whole config
    Card          that of the newest checkpoint

Training writes the page at every snapshot and at its end, every other mode of a work directory at its end. The page has
fewer than LIMIT bytes. Large pictures are embedded smaller, as JPEG, and many snapshots are thinned out evenly. What
does not fit is left out, and the page names it.
"""

import datetime
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from io_lib import workdir
from io_lib.embedded import Space
from io_lib.pictures import smooth
from io_lib.processes import is_main_process
from io_lib.run_page import Part, Section, Text, run_page
from run_modes.page_parts import (
    CELL,
    PAGE,
    card_parts,
    config_parts,
    cut,
    evaluation,
    evaluation_pictures,
    evaluations,
    figure_rows,
    loss_charts,
    metrics_of,
    newest_card,
    restored_parts,
    sample_parts,
    snapshots,
    sounds,
    texts,
    title_of,
)

log = logging.getLogger(__name__)

LIMIT = 5_000_000  # bytes of the page


def write_page(directory: str | Path, card: dict[str, Any] | None = None) -> None:
    """Writes DIRECTORY/index.html in the main process. An error is one warning in the log, and no page.

    `card` is that of the newest checkpoint, if it is at hand. Otherwise it is taken from the page that is there, if it
    has the card of this step; else it is read from the checkpoint, which takes half a second.
    """
    if not is_main_process():
        return
    try:
        page, unread = page_of(Path(directory), card)
        workdir.write_atomic(Path(directory) / PAGE, page)
    except Exception as error:  # of any class: the page must not fail a run
        log.warning("%s was not written: %s: %s", Path(directory) / PAGE, type(error).__name__, error)
        return
    if unread:
        found = "; ".join(f"{name}: {error}" for name, error in unread.items())
        log.warning("%s lacks what could not be read: %s", Path(directory) / PAGE, found)


def page_of(directory: Path, card: dict[str, Any] | None = None) -> tuple[bytes, dict[str, str]]:
    """The page of a work directory, and the error of each section that cannot be read, which also takes its place.

    ValueError if the page is not smaller than LIMIT even without pictures.
    """
    errors: dict[str, str] = {}

    def read(name: str, make: Callable[[], Sequence[Part]]) -> Section:
        try:
            return Section(name, make())
        except Exception as error:  # of any class: files may hold anything
            errors[name] = f"{type(error).__name__}: {cut(str(error), CELL)}"
            return Section(name, [Text(f"This part cannot be read. {errors[name]}")])

    folders = evaluations(directory)
    written = [
        read("Losses", lambda: loss_charts(directory)),
        *(read(title_of(folder), lambda folder=folder: evaluation(folder)) for folder in folders),
        read("Texts", lambda: texts(directory)),
        read("Config", lambda: config_parts(directory)),
        read("Card", lambda: card_parts(card or newest_card(directory))),
    ]
    about = head(directory, folders)

    def with_pictures(left: int) -> bytes:
        space = Space(directory, left)
        space.reserve(0.4)  # for sounds and snapshots
        shown = [
            read("Samples", lambda: sample_parts(directory, space)),
            *(read(title_of(folder), lambda folder=folder: evaluation_pictures(folder, space)) for folder in folders),
            read("Restored", lambda: restored_parts(directory, space)),
            read("Sounds", lambda: sounds(directory, space)),
            read("Samples", lambda: snapshots(directory, space)),
        ]
        return run_page(*about, joined([*shown, *written]))

    left = LIMIT - len(run_page(*about, written))
    pages = (with_pictures(left - margin) for margin in (50_000, LIMIT))  # for headings and notes; else no pictures
    page = next((page for page in pages if len(page) < LIMIT), b"")
    if not page:
        raise ValueError(f"expected fewer than {LIMIT} bytes, got more without any picture")
    return page, errors


def joined(sections: Sequence[Section]) -> list[Section]:
    """The sections in the order of the page: sections of one title become one."""
    first, last = ["Samples", "Losses"], ["Texts", "Config", "Card"]
    titles = dict.fromkeys([*first, *(one.title for one in sections if one.title not in last), *last])
    return [Section(title, [part for one in sections if one.title == title for part in one.parts]) for title in titles]


def head(directory: Path, folders: Sequence[Path]) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, subtitle, and the figures of the run: step, losses, and the first figures of its evaluation."""
    name = directory.resolve().name
    found: list[tuple[str, str]] = []
    try:
        config, lines = workdir.load_config(directory), metrics_of(directory)
        steps = [line["step"] for line in lines]
        total = config.get("training", {}).get("num_steps", 0)
        if steps:
            found.append(("step", f"{max(steps):,}" + (f" of {total:,}" if total and max(steps) < total else "")))
        train = [line["loss"] for line in lines if "loss" in line]
        if train:
            found.append(("training loss", f"{smooth(np.asarray(train), max(1, len(train) // 40))[-1]:.4g}"))
        if test := [line["eval_loss"] for line in lines if "eval_loss" in line]:
            found.append(("test loss", f"{test[-1]:.4g}"))
        for folder in folders[:1]:
            report = json.loads((folder / "report.json").read_text())
            rows = sorted(figure_rows(report), key=lambda row: not re.match("FID|Fréchet distance", row[0]))
            found += [(row[0], row[1]) for row in rows[:2]]
    except Exception:  # of any class: the sections report it
        pass
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return cut(name, CELL), f"{cut(str(directory), CELL)}, {now}", [(cut(a, 60), cut(b, 60)) for a, b in found[:6]]
