"""Kill −9 at random moments, again and again, and look at what is left: `python -m tests.crash.campaign --kills=100`.

A work directory is trained, sampled from and evaluated by a process that is killed, started again, killed …, until it
may end. What it then holds has to be what a process that nobody killed made, bit for bit:

    parameters, EMA, optimizer, key    metrics.jsonl    samples.npz    report.json (but for the seconds it took)

After each kill the next process has to go on from the newest checkpoint that was whole, and no file of samples may be
drawn again; at the end no half-written file may be left. The kinds of moment come in turn, delays are drawn by seed.
"""

import argparse
import collections
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from io_lib.checkpoint import Checkpoints
from run_modes.experiment import make_experiment
from run_modes.state import restore_state
from tests.crash.workload import BATCH, CHECKPOINT_EVERY, SAMPLES, get_config
from tests.environment import SMALL_PROGRAMS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ, "PYTHONUNBUFFERED": "1", "XLA_FLAGS": SMALL_PROGRAMS, "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}  # fmt: skip
PATIENCE = 600  # seconds: a process that is not done by then hangs


# A work directory as the names in it tell it


class Features(NamedTuple):
    logged: int  # the last step of metrics.jsonl
    kept: int  # the newest whole checkpoint
    writing: bool  # a checkpoint is half-written
    deleting: bool  # one is half-deleted
    samples: dict[str, int]  # whole files of samples, and when they were written
    evaluating: bool


def look(directory: Path) -> Features:
    checkpoints, log = directory / "checkpoints", directory / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    files = (directory / "samples" / "shards").glob("*/[0-9]*.npz")
    return Features(
        logged=max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0),
        kept=max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0),
        writing=any(checkpoints.glob("*.orbax-checkpoint-tmp*")),
        deleting=any((checkpoints / ".trash").glob("*")),
        samples={p.name: p.stat().st_mtime_ns for p in files},
        evaluating=(directory / "eval").is_dir(),
    )


# Moments: (whether it is reached, given what was there when the process started and what is now; longest delay after)

MOMENTS = {
    "start-up": (lambda then, now: True, 5.0),
    "step": (lambda then, now: now.logged > then.kept + 1, 0.2),
    "checkpoint": (lambda then, now: now.writing and now.kept > then.kept, 0.04),
    "deletion": (lambda then, now: now.deleting, 0.004),
    "sampling": (lambda then, now: len(now.samples) > len(then.samples), 0.1),
    "end of samples": (lambda then, now: len(now.samples) >= SAMPLES // BATCH, 0.1),
    "evaluation": (lambda then, now: now.evaluating, 1.5),
}
EACH = (  # of one work directory, in the order in which they can come
    "start-up", "step", "checkpoint", "deletion", "start-up", "checkpoint", "step", "sampling", "end of samples",
    "evaluation",
)  # fmt: skip
SHORT = ("checkpoint", "sampling")


class Kill(NamedTuple):
    kind: str
    seen: Features


def start(directory: Path) -> subprocess.Popen:
    with open(directory.with_suffix(".log"), "ab") as log:
        command = [sys.executable, "-m", "tests.crash.workload", str(directory)]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=ENVIRONMENT)


def run(directory: Path, kind: str | None = None, delay: float = 0.0) -> Kill | None:
    """Runs the workload to its end, or kills it at a moment of that kind. RuntimeError where it fails by itself."""
    then, process, begun = look(directory), start(directory), time.monotonic()
    try:
        while process.poll() is None:
            if time.monotonic() - begun > PATIENCE:
                raise RuntimeError(f"{directory}: no end after {PATIENCE} s")
            if kind and MOMENTS[kind][0](then, look(directory)):
                time.sleep(delay * MOMENTS[kind][1])
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if process.returncode == -signal.SIGKILL:
        return Kill(kind, look(directory))
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {directory.with_suffix('.log').read_text()[-3000:]}")
    return None


# What a directory holds in the end


def outcome(directory: Path) -> dict[str, np.ndarray]:
    """Every array and text that must not depend on kills, by name."""
    config = get_config()
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = restore_state(make_experiment(config, jax.devices()[:1]), checkpoints)
        steps = checkpoints.steps()
    state = state.replace(key=jax.random.key_data(state.key))
    found = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
    with np.load(directory / "samples" / "samples.npz", allow_pickle=False) as file:
        found |= {f"samples.{name}": file[name] for name in file.files}
    report = json.loads((directory / "eval" / "report.json").read_text())
    report.pop("seconds"), report.pop("code")
    texts = {"report": json.dumps(report), "metrics": (directory / "metrics.jsonl").read_text()}
    return found | {name: np.asarray(text) for name, text in (texts | {"steps": str(steps)}).items()}


def require_same(directory: Path, expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    different = sorted(name for name in {*expected, *found} if not same(expected.get(name), found.get(name)))
    if different:
        raise AssertionError(f"{directory}: {', '.join(different[:5])} differ from the run that nobody killed")
    left = [str(p.relative_to(directory)) for p in directory.rglob("*") if ".tmp" in p.name or "-tmp" in p.name]
    if left or (directory / "checkpoints" / ".damaged").exists() or look(directory).deleting:
        raise AssertionError(f"{directory}: half-written or damaged files are left: {left}")


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def require_kept(directory: Path, kills: list[Kill]) -> None:
    """Each start was from the newest whole checkpoint before it, and the files of samples are those first written."""
    starts = [int(n) for n in re.findall(r"resumes at step (\d+)\n", directory.with_suffix(".log").read_text())]
    kept = [kill.seen.kept for kill in kills]
    if not set(starts) <= set(kept) or starts != sorted(starts) or kept != sorted(kept):
        raise AssertionError(f"{directory}: went on from {starts}, but kept {kept}")
    if lost := [k for k in kills if k.seen.logged - k.seen.kept > 2 * CHECKPOINT_EVERY]:  # one of them in writing
        raise AssertionError(f"{directory}: {lost[0]} lost more than what its last checkpoint lacked")
    for kill in kills:
        if not kill.seen.samples.items() <= look(directory).samples.items():
            raise AssertionError(f"{directory}: samples were drawn again after {kill.kind}")


# The campaign


def one_directory(directory: Path, kinds: Iterable[str], generator: np.random.Generator) -> list[Kill]:
    """Kills at moments of these kinds, then the end. A moment that the run was over before is left out."""
    kills = []
    for kind in kinds:
        kill = run(directory, kind, float(generator.random()))
        if kill is None:
            return kills
        kills.append(kill)
    run(directory)
    return kills


def campaign(folder: Path, kills: int, seed: int = 0, kinds: tuple[str, ...] = EACH) -> list[Kill]:
    """So many kills, over as many work directories as they need. AssertionError, RuntimeError at the first loss."""
    whole, generator, done, rounds = folder / "whole", np.random.default_rng(seed), [], 0
    run(whole)
    expected = outcome(whole)
    while len(done) < kills:
        directory = folder / f"killed{rounds}"
        made = one_directory(directory, kinds[: kills - len(done)], generator)
        require_same(directory, expected, outcome(directory))
        require_kept(directory, made)
        done, rounds = done + made, rounds + 1
        print(f"{len(done)} of {kills} kills: {directory.name} ended as the run that nobody killed", flush=True)
    return done


def table(kills: list[Kill]) -> str:
    rows = ["| moment | kills | in half a checkpoint | in half a deletion | steps redone, most |"]
    rows.append("|---|--:|--:|--:|--:|")
    by_kind = collections.defaultdict(list)
    for kill in kills:
        by_kind[kill.kind].append(kill.seen)
    for kind, seen in by_kind.items():
        halves, trash = sum(s.writing for s in seen), sum(s.deleting for s in seen)
        redone = max(s.logged - s.kept for s in seen)
        rows.append(f"| {kind} | {len(seen)} | {halves} | {trash} | {redone} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        begun = time.monotonic()
        print(table(campaign(Path(temporary), options.kills, options.seed)))
        print(f"{time.monotonic() - begun:.0f} s")
