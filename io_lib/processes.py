"""Several processes that run as one JAX program: one per machine, or per group of its devices."""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from config_lib.names import ConfigError

SHUTDOWN_SECONDS = 30  # how long a process that ends with an error waits for the others


def join(place: str) -> None:
    """Joins this process to the others by `jax.distributed.initialize`. Call it before any other call of JAX.

    `place` is "auto" in a cluster that JAX detects (TPU pods, Slurm, Open MPI, Kubernetes). Elsewhere it is
    "HOST:PORT,INDEX/COUNT": the address of process 0, the index of this process, and the number of processes.
    ConfigError for any other text, and if the processes do not connect.
    """
    address, count, index = _parse(place)
    before = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(address, count, index, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except (ValueError, RuntimeError) as error:
        hint = "no cluster was found, give HOST:PORT,INDEX/COUNT: " if "should be defined" in str(error) else ""
        raise ConfigError(f"--processes={place}: {hint}{' '.join(str(error).split())[:200]}") from error
    if threading.current_thread() is threading.main_thread():
        # JAX's own handler does not end the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def is_main_process() -> bool:
    """Whether this is process 0, which writes every file except the other processes' shares of a checkpoint."""
    return jax.process_index() == 0


def any_process(true: bool) -> bool:
    """Whether `true` is true in any process. Every process must call it, and waits for the others."""
    return true if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.asarray(true))))


@contextlib.contextmanager
def raise_on_all(kind: type[Exception] = ConfigError) -> Iterator[None]:
    """An error in one process raises in all of them: the others raise a `kind` instead of waiting for that process.

    Every process must enter the context, and all wait for each other at its end.
    """
    error = None
    try:
        yield
    except Exception as raised:  # any class: the others would wait after any of them
        error = raised
    if any_process(error is not None):
        raise error or kind("refused in another of the processes, whose output says why")


def _parse(place: str) -> tuple[str | None, int | None, int | None]:
    """(address, count, index) of "HOST:PORT,INDEX/COUNT"; three times None for "auto"."""
    if place == "auto":
        return None, None, None
    found = re.fullmatch(r"(\S+:\d+),(\d+)/(\d+)", place)
    if not found or int(found[2]) >= int(found[3]):
        raise ConfigError(f"--processes={place}: expected auto or HOST:PORT,INDEX/COUNT, as in node0:1234,0/2")
    return found[1], int(found[3]), int(found[2])
