"""--config=NAME and --config=FILE from a folder that is not the checkout: whose config it is, and its saved names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config_lib import names
from config_lib.command_line import load_config
from config_lib.spec import ConfigError, build, from_json, to_json
from configs import digits, points

ROOT = Path(__file__).parents[2]
OWN = """
import dataclasses
from ml_collections import ConfigDict
from config_lib.spec import spec

@dataclasses.dataclass(frozen=True)
class Net:
    width: int = 3

def get_config(width="3"):
    return ConfigDict({"net": spec(Net, width=int(width))})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: not the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(folder):
    """A user's files, under the names of shipped experiments."""
    (folder / "configs").mkdir()
    for file in ("digits.py", "configs/digits.py", "configs/mine.py"):
        (folder / file).write_text(OWN)
    (folder / "points").write_text("no Python")
    return folder


@pytest.mark.parametrize("files", ["folder", "own"])
def test_a_name_is_the_shipped_experiment(files, request):
    """Also next to a user's files of that name: a path to one has a slash or an ending."""
    request.getfixturevalue(files)
    assert to_json(load_config("digits")) == to_json(digits.get_config())
    assert to_json(load_config("points")) == to_json(points.get_config())
    assert load_config("score_sde:cifar10_ddpmpp_vp").network.call == "models:NCSNpp"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("path", ["digits.py", "./digits.py", "configs/digits.py", "configs/mine.py"])
def test_a_path_is_the_users_file(path, monkeypatch):
    """Its class is saved under the file's name, also from a folder called configs: it is no class of the library's."""
    config = load_config(f"{path}:5")
    assert config.net.call == f"{Path(path).stem}:Net"
    saved = from_json(to_json(config))
    assert build(saved.net).width == 5
    monkeypatch.setattr(names, "_seen", {})  # a new process
    with pytest.raises(ConfigError, match=r"config.net is `\w+:Net`, defined outside .*: pass --config=FILE with the"):
        build(saved)


def test_a_path_into_the_library_is_imported_by_name():
    """So classes in it resolve in a new process."""
    assert to_json(load_config(str(ROOT / "configs" / "points.py"))) == to_json(points.get_config())
    assert "points (config file)" not in sys.modules


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/digits.py", r"there is no file configs/digits\.py; the shipped experiment is --config=digits$"),
        ("digits.py", r"there is no file digits\.py; the shipped experiment is --config=digits$"),
        ("configs/mine.py", r"there is no file configs/mine\.py; shipped are adm, cifar10, .*, score_sde, .*volume$"),
        ("mine/own.py", r"^--config=mine/own\.py: there is no file mine/own\.py$"),
    ],
)
def test_a_missing_file(path, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.usefixtures("own")
def test_a_file_that_is_not_python():
    with pytest.raises(ConfigError, match=r"^--config=\./points: .*expected a Python file, with the ending \.py$"):
        load_config("./points")


def test_another_package_called_configs(own):
    """It hides the library's where it comes first on sys.path; files in it are the user's all the same."""
    (own / "configs" / "__init__.py").touch()
    (own / "main.py").write_text(
        "from config_lib.command_line import load_config\n"
        "print(load_config('configs/digits.py').net.call)\nload_config('digits')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, env=environment)
    assert done.stdout == "digits:Net\n"
    expected = f"expected the package configs in {ROOT / 'configs'}, got {own / 'configs' / '__init__.py'}: rename that"
    assert expected in done.stderr


@pytest.mark.parametrize("line", ["config.training.num_step = 1500", "config.training.update(num_step=1500)"])
def test_a_wrong_name_in_a_section_is_refused(tmp_path, line):
    """Once it became a key that nothing reads, and training took the number of steps that it replaces."""
    (tmp_path / "mine.py").write_text(
        "from configs import points\ndef get_config():\n"
        f"    config = points.get_config()\n    {line}\n    return config\n"
    )
    with pytest.raises(ConfigError, match=r"mine\.py:4: unknown config key num_step; nearest: num_steps"):
        load_config(str(tmp_path / "mine.py"))
