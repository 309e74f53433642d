"""The strictest settings JAX has: float64 at hand, no silent broadcasting over ranks, no silent promotion of dtypes."""

import os
from importlib import metadata

# Eight simulated devices; and programs that are compiled faster than they run, since most run once. The small ones, of
# which each operation outside of jit is one, take half of the time without the newer emitters, where there are older.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if metadata.version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
