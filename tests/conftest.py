"""The strictest settings JAX has: float64 at hand, no silent broadcasting over ranks, no silent promotion of dtypes."""

import gc
import os
from pathlib import Path

from tests.environment import SMALL_PROGRAMS

# Eight simulated devices; and programs that are compiled faster than they run, since most run once.
os.environ.setdefault(
    "XLA_FLAGS", f"--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 {SMALL_PROGRAMS}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # of the compiler's messages; saves 5 % of the time
# Where there is a folder of compiled programs, as under the Makefile, it has the short ones too: both workers and the
# processes that tests start compile each of them once.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_finish():
    """The garbage collector leaves out what is imported by now, whose passes took up to a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """A worker that holds more than 3 GiB after a file, most of it compiled programs, drops them."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 3 * 2**30:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def usual_promotion():
    """optax raises a Python float to an integer array's power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
