"""Training in several processes, one to a machine or to a few of its devices, which JAX makes one program of."""

import re

import jax
import numpy as np
from jax.experimental import multihost_utils

from configs.spec import ConfigError


def join(place: str) -> None:
    """Joins the others, before anything else is asked of JAX: `jax.distributed.initialize`.

    "auto" finds them where a cluster says who they are (TPU pods, Slurm, Open MPI, Kubernetes); elsewhere
    "HOST:PORT,INDEX/COUNT": where the first process listens, which one this is, of how many. ConfigError otherwise, and
    where they do not meet.
    """
    try:
        if place == "auto":
            jax.distributed.initialize()
            return
        found = re.fullmatch(r"(\S+:\d+),(\d+)/(\d+)", place)
        if not found or not int(found[2]) < int(found[3]):
            raise ConfigError(f"--processes={place}: expected auto or HOST:PORT,INDEX/COUNT, as in node0:1234,0/2")
        jax.distributed.initialize(found[1], int(found[3]), int(found[2]))
    except ConfigError:
        raise
    except (ValueError, RuntimeError) as error:  # of where there is no cluster; of one that does not answer
        raise ConfigError(f"--processes={place}: {' '.join(str(error).split())[:200]}") from error


def first_process() -> bool:
    """Whether this is the one that writes."""
    return jax.process_index() == 0


def anywhere(true: bool) -> bool:
    """Whether it is true in any process; each has to ask, and waits for the others."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(true))))
