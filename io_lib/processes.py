"""Several processes, one to a machine or to a few of its devices, of which JAX makes one program."""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from config_lib.names import ConfigError

SHUTDOWN_SECONDS = 30  # that a process which ends by an error waits for the others


def join(place: str) -> None:
    """Joins the others, before anything else is asked of JAX: `jax.distributed.initialize`.

    "auto" finds them where a cluster says who they are (TPU pods, Slurm, Open MPI, Kubernetes); elsewhere
    "HOST:PORT,INDEX/COUNT": where the first process listens, which one this is, of how many. ConfigError otherwise, and
    where they do not meet.
    """
    found = re.fullmatch(r"(\S+:\d+),(\d+)/(\d+)", place)
    if place != "auto" and not (found and int(found[2]) < int(found[3])):
        raise ConfigError(f"--processes={place}: expected auto or HOST:PORT,INDEX/COUNT, as in node0:1234,0/2")
    where = () if place == "auto" else (found[1], int(found[3]), int(found[2]))
    before = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(*where, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except (ValueError, RuntimeError) as error:
        hint = "no cluster was found, give HOST:PORT,INDEX/COUNT: " if "should be defined" in str(error) else ""
        raise ConfigError(f"--processes={place}: {hint}{' '.join(str(error).split())[:200]}") from error
    if threading.current_thread() is threading.main_thread():
        # JAX's own handler does not end the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def is_main_process() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def any_process(true: bool) -> bool:
    """Whether it is true in any process; each has to ask, and waits for the others."""
    return true if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.asarray(true))))


@contextlib.contextmanager
def raise_on_all(kind: type[Exception] = ConfigError) -> Iterator[None]:
    """What is refused in one process is in all: the others raise a `kind`, where they would wait for that one."""
    error = None
    try:
        yield
    except Exception as raised:  # of any class: the others wait whatever it is
        error = raised
    if any_process(error is not None):
        raise error or kind("refused in another of the processes, whose output says why")
