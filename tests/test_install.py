"""The wheel: what it holds, and its use from another folder, in an environment that has it and not the checkout.

The environment has the dependencies of the one that runs the tests, by a .pth file; nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.version import Version

import _score_sde_jax_guard as guard
from tests.environment import SMALL_PROGRAMS
from tests.test_architecture import ROOMS

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(name for name in ROOMS if (ROOT / name).is_dir())
MODULES = ["_score_sde_jax_guard", "run_lib"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    "XLA_FLAGS": f"--xla_backend_optimization_level=0 {SMALL_PROGRAMS}",
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the checkout, in which a build of version 0.1 has left a module."""
    assert Version(metadata.version("setuptools")) >= Version("77"), "the tests need the extra `dev`: make setup"
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in (*PACKAGES, *MODULES, "main", "setup", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / (name if (ROOT / name).is_file() else f"{name}.py"), source)
    (source / "build" / "lib").mkdir(parents=True)
    (source / "build" / "lib" / "run_parts.py").touch()
    pip(sys.executable, "wheel", "--no-build-isolation", "--wheel-dir", built, source)
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The environment: its Python, its script, and the folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    pip(python, "install", "--no-index", wheel)
    return SimpleNamespace(python=python, script=folder / "bin" / "score-sde", site=site)


def pip(python, command, *arguments):
    command = [sys.executable, "-m", "pip", "--python", python, command, "--quiet", "--no-deps", *arguments]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)


def run(*command, folder, **environment):
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, timeout=600
    )


def python(installed, code, folder, *options, **environment):
    return run(installed.python, *options, "-c", code, folder=folder, **environment)


def foreign(folder, *files):
    """Modules that leave a file `ran` if they are imported."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def refused(done, folder, *places):
    """Nothing of the folder was run, and the last line names the places."""
    assert done.returncode != 0 and not (folder / "ran").exists()
    line = done.stderr.splitlines()[-1]
    assert all(str(place) in line for place in places) and "run Python in another folder or with -P" in line
    return line


def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        described = metadata.PathDistribution(zipfile.Path(wheel, f"{info}/"))
        assert file.read("_score_sde_jax_guard.pth").startswith(b"import ")
        assert b"Apache License" in file.read(f"{info}/licenses/LICENSE")
    modules = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    typed = {f"{name}/py.typed" for name in PACKAGES}
    top = {f"{name}.py" for name in MODULES} | {"_score_sde_jax_guard.pth"}
    assert {name for name in names if not name.startswith(info)} == modules | typed | top
    assert described.metadata["License-Expression"] == "Apache-2.0"
    assert described.metadata["Author"] == "The score-sde-jax authors"
    (script,) = described.entry_points
    assert (script.group, script.name) == ("console_scripts", "score-sde")


def test_the_guard_has_every_package():
    assert sorted(guard.PACKAGES) == PACKAGES


def test_imports_from_another_folder(installed, tmp_path):
    code = (
        "import run_lib, sde_lib, models, configs, data_lib, importlib.util, sys;"
        "print({m.__file__ for m in (run_lib, sde_lib, models, configs, data_lib)});"
        "assert not importlib.util.find_spec('main');"
        "print({'sklearn', 'scipy', 'orbax', 'diffrax', 'grain', 'matplotlib', 'tensorboardX'} & set(sys.modules))"
    )
    done = python(installed, code, tmp_path)
    assert done.returncode == 0, done.stderr
    files, heavy = done.stdout.splitlines()
    assert files.count(str(installed.site)) == 5 and heavy == "set()"


def test_importing_run_lib_takes_at_most_half_more_than_jax_and_flax(installed, tmp_path):
    """CPU time of processes of their own, in turns, the least of two."""
    code = "import {}; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    both = code.format("jax, flax.linen"), code.format("run_lib")
    turns = [[float(python(installed, code, tmp_path).stdout) for code in both] for _ in range(2)]
    jax_and_flax, ours = map(min, zip(*turns, strict=True))
    assert ours < 1.5 * jax_and_flax


def test_the_console_script(installed, tmp_path):
    helped = run(installed.script, "--help", folder=tmp_path)
    assert all(flag in helped.stdout for flag in ("--config", "--workdir", "--mode", "--num_samples"))
    small = ("--config.network.features=8", "--config.training.batch_size=8")
    short = ("--config.training.num_steps=2", "--config.training.sample_every=0", "--config.training.eval_every=0")
    np.savez(tmp_path / "points.npz", x=np.random.default_rng(0).normal(size=(100, 2)))
    done = run(installed.script, "--config=points", "--workdir=run", *small, *short, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


README = """
import re, sys
from configs import points

real = points.get_config

def short():
    config = real()
    config.training.update(num_steps=20, checkpoint_every=20, log_every=10, batch_size=64)
    return config

points.get_config = short
names = {"__name__": "readme"}
for block in re.findall(r"```python\\n(.*?)```", open(sys.argv[1]).read(), flags=re.DOTALL):
    exec(compile(block, sys.argv[1], "exec"), names)
print(names["samples"].shape)
"""


def test_the_blocks_of_the_readme(installed, tmp_path):
    done = run(installed.python, "-c", README, ROOT / "README.md", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "(1000, 2)", done.stderr


@pytest.mark.parametrize("name", ["models/__init__.py", "configs/__init__.py", "sde_lib.py"])
@pytest.mark.parametrize("code", ["import run_lib", "from run_lib import train"])
def test_a_folder_with_a_package_of_our_name(installed, tmp_path, name, code):
    foreign(tmp_path, name)
    place = tmp_path / name.removesuffix("/__init__.py")
    line = refused(python(installed, code, tmp_path), tmp_path, installed.site, place)
    assert line.startswith("ImportError: score-sde-jax in ") and f"`{Path(name).parts[0].removesuffix('.py')}`" in line


def test_a_package_of_our_name_that_is_imported_already(installed, tmp_path):
    (tmp_path / "models.py").touch()
    refused(python(installed, "import models, run_lib", tmp_path), tmp_path, installed.site, tmp_path / "models.py")


def test_the_console_script_beside_another_package(installed, tmp_path):
    """The current folder is not on its path; one of PYTHONPATH is."""
    foreign(tmp_path, "models/__init__.py")
    assert run(installed.script, "--help", folder=tmp_path).stderr == ""
    done = run(installed.script, "--config=digits", "--workdir=run", folder=tmp_path, PYTHONPATH=str(tmp_path))
    line = refused(done, tmp_path, installed.site, tmp_path / "models")
    assert done.returncode == 2 and done.stderr == f"{line}\n" and line.startswith("score-sde: ")


def test_a_folder_of_config_files_is_no_package(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").touch()
    code = "import _score_sde_jax_guard as guard; guard.check_packages(guard.__file__.rpartition('/')[0])"
    done = python(installed, code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_clone_of_score_sde(installed, tmp_path):
    """It has a run_lib of its own."""
    foreign(tmp_path, "run_lib.py", "sde_lib.py", "models/__init__.py", "configs/default_cifar10_configs.py")
    line = refused(python(installed, "import run_lib", tmp_path), tmp_path, installed.site, tmp_path / "run_lib.py")
    assert line.startswith("ImportError: `import run_lib` would import ") and "environment without" in line
    code = "import importlib.util as u; print(u.find_spec('run_lib').origin, u.find_spec('models').origin)"
    with_p = python(installed, code, tmp_path, "-P").stdout.split()
    assert with_p == [str(installed.site / "run_lib.py"), str(installed.site / "models" / "__init__.py")]
    assert python(installed, "import sde_lib", tmp_path).returncode == 0  # only the name run_lib is guarded
    assert (tmp_path / "ran").exists()


def test_a_checkout_is_our_own(installed, tmp_path):
    code = "import _score_sde_jax_guard, importlib.util as u; print(u.find_spec('run_lib').origin)"
    assert python(installed, code, ROOT).stdout.strip() == str(ROOT / "run_lib.py")


def test_without_run_lib_the_guard_does_nothing(installed, tmp_path):
    """Of an installation that was removed by hand, for one."""
    (tmp_path / "left").mkdir()
    shutil.copy(installed.site / "_score_sde_jax_guard.py", tmp_path / "left")
    foreign(tmp_path, "run_lib.py")
    code = "import sys; sys.path.append('left'); import _score_sde_jax_guard as g; g.install(); import run_lib"
    assert run(sys.executable, "-c", code, folder=tmp_path).returncode == 0 and (tmp_path / "ran").exists()


def test_the_guard_imports_nothing_when_python_starts(installed, tmp_path):
    code = (
        "import os, sys; sys.path.append(sys.argv[1]); before = set(sys.modules); import _score_sde_jax_guard as guard;"
        "guard.install(); guard.install(); print(set(sys.modules) - before, sys.meta_path.count(guard.OwnRunLib))"
    )
    done = run(installed.python, "-S", "-c", code, installed.site, folder=tmp_path)
    assert done.stdout == "{'_score_sde_jax_guard'} 1\n", done.stderr
