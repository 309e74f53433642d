"""Programs compiled by XLA: cached on disk from process to process, and the options that they are compiled with.

Compilation takes most of the time until a first result. JAX can store compiled programs in a folder. Unless you chose
one (JAX_COMPILATION_CACHE_DIR), every mode uses one in the user's cache folder, of at most 1 GiB, for this kind of
processor: the least recently used are deleted. JAX_ENABLE_COMPILATION_CACHE=false, or --nocompile_cache, turns it off.
"""

import functools
import hashlib
import os
import platform
from pathlib import Path

import jax

MAX_BYTES = 2**30
LEAST_SECONDS = 0.2  # of compilation, for a program to be kept


@functools.cache
def use_cache() -> None:
    """Chooses the folder, once per process; nothing if one is chosen, or if it cannot be made."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        folder = user_cache() / "score-sde" / f"compiled-{processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return  # no home, or one that cannot be written: programs are compiled each time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def user_cache() -> Path:
    """The user's folder for caches: XDG_CACHE_HOME, or the system's usual place."""
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place)
    return Path.home() / ("Library/Caches" if platform.system() == "Darwin" else ".cache")


def processor() -> str:
    """A name for the processor: its instructions, where the system lists them, and the cores that this process may use.

    Programs for CPUs depend on both. JAX's keys contain the first, not the second: a program compiled on one core stays
    on one core.
    """
    try:
        with open("/proc/cpuinfo") as file:
            lines = {line for line in file if line.startswith(("flags", "Features", "model name"))}
    except OSError:
        lines = {platform.processor()}
    digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:8]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}-{digest}-{cores}"
