"""XLA's flags for tests. It imports no JAX, which reads them when it is imported."""

from importlib import metadata

# Programs of a few operations, such as each operation outside of jit is, take half of the time to compile without the
# newer emitters, where there are older ones. One part of a program compiles a fifth faster than several at once.
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
SMALL_PROGRAMS = FLAGS if metadata.version("jaxlib").startswith("0.10.") else ""
