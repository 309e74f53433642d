"""The strictest settings JAX has: float64 at hand, no silent broadcasting over ranks, no silent promotion of dtypes."""

import os

from tests.environment import SMALL_PROGRAMS

# Eight simulated devices; and programs that are compiled faster than they run, since most run once.
os.environ.setdefault(
    "XLA_FLAGS", f"--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 {SMALL_PROGRAMS}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # of the compiler's messages; saves 5 % of the time

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def usual_promotion():
    """optax raises a Python float to an integer array's power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
