"""Does a long run leak memory, or compile again? `python -m benchmarks.long_run --steps=2000 --calls=200`.

Measures resident memory (VmRSS) after every step and every sampling call, and counts the functions that JAX traces, by
its monitoring events. In the first part of a run programs are compiled and memory pools filled. After it, memory must
stay within 5 % of its value at the end of that part, and nothing may be traced.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax

import run_lib
from benchmarks.memory import resident
from run_modes import training_loop
from tests.crash.workload import get_config

WARM, TOLERANCE = 0.2, 0.05
TRACED = "/jax/core/compile/jaxpr_trace_duration"


class Held(NamedTuple):
    """Resident bytes at the end of the first part, their maximum after it, and the traces after it."""

    what: str
    warm: int
    most: int
    traces: int

    def is_steady(self) -> bool:
        return self.most <= (1 + TOLERANCE) * self.warm and not self.traces

    def __str__(self) -> str:
        growth = 100 * (self.most / self.warm - 1)
        return f"{self.what}: {self.warm / 2**20:.0f} MiB, then at most {growth:+.1f} %, traced {self.traces} times"


def held(what: str, numbers: list[tuple[int, int]]) -> Held:
    """The result from (resident bytes, traces so far) after each step or call."""
    warm = max(1, int(WARM * len(numbers)))
    return Held(what, numbers[warm - 1][0], max(n[0] for n in numbers[warm:]), numbers[-1][1] - numbers[warm - 1][1])


def measure(directory: Path, steps: int, calls: int) -> Iterable[Held]:
    """Results of a training with logs, evaluations and checkpoints, then of sampling calls."""
    traces, numbers = [], []
    listener = lambda event, *_, **__: event == TRACED and traces.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    config = get_config()
    config.training.update(num_steps=steps, log_every=max(1, steps // 100), eval_every=max(1, steps // 20))
    config.training.checkpoint_every = max(1, steps // 10)
    due = training_loop.TrainingRun.do_what_is_due

    def watched(run, step, state, progress):
        due(run, step, state, progress)
        numbers.append((resident("VmRSS"), len(traces)))

    with mock.patch.object(training_loop.TrainingRun, "do_what_is_due", watched):
        run_lib.train(config, directory, devices=jax.devices()[:1])
    yield held(f"{steps} steps", numbers)
    model, numbers = run_lib.load(directory), []
    for seed in range(calls):
        jax.block_until_ready(model.sample(jax.random.key(seed), 16))
        numbers.append((resident("VmRSS"), len(traces)))
    yield held(f"{calls} sampling calls", numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = list(measure(Path(directory) / "run", options.steps, options.calls))
    print(*found, sep="\n")
    sys.exit(not all(part.is_steady() for part in found))


if __name__ == "__main__":
    main()
