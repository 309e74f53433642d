"""The folder of compiled programs: the user's own choice, or one that is bounded, by processor, and may be off."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from run_modes import compilation

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def none_chosen(monkeypatch, tmp_path):
    saved = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in saved.items():
        jax.config.update(name, value)


def test_a_bounded_folder_of_the_user(none_chosen):
    compilation.use_cache.__wrapped__()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir() and folder.parent == none_chosen / "score-sde"
    assert folder.name == f"compiled-{compilation.processor()}"
    assert jax.config.jax_compilation_cache_max_size == 2**30


def test_a_choice_is_respected(none_chosen, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compilation.use_cache.__wrapped__()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine") and not (none_chosen / "score-sde").exists()


def test_a_home_that_cannot_be_written(none_chosen, monkeypatch):
    (none_chosen / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(none_chosen / "file"))
    compilation.use_cache.__wrapped__()
    assert jax.config.jax_compilation_cache_dir is None


PROGRAM = """
import time, jax, jax.numpy as jnp
from configs.points import get_config
from run_modes.experiment import make_experiment
make_experiment(get_config())
x = jnp.ones((50, 50))
start = time.time()
jax.jit(lambda x: sum(jnp.sin(x * i) @ x for i in range(80)))(x).block_until_ready()
print(time.time() - start)
"""


def test_a_second_process_compiles_nothing_that_the_first_did(tmp_path):
    hidden = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "XLA_FLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}

    def seconds(**more):
        command = [sys.executable, "-c", PROGRAM]
        found = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True)
        return float(found.stdout.split()[-1])

    off = seconds(JAX_ENABLE_COMPILATION_CACHE="false")
    assert not list(tmp_path.rglob("*-cache"))
    first, second = seconds(), seconds()
    assert list(tmp_path.rglob("*-cache")) and second < 0.5 * min(off, first)
