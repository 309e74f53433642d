"""Files from elsewhere are data: nothing in them is run, imported or written by reading them.

The pickles of PyTorch and the msgpack of flax have hostile files of their own in test_torch_file and test_msgpack_file;
here are config.json, npz files and checkpoints.
"""

import ast
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from config_lib import names
from config_lib.spec import ConfigError, build, from_json
from data_lib import from_npz
from eval_lib import statistics
from io_lib.checkpoint import Checkpoints
from io_lib.shards import Shards, mapped

ROOT = Path(__file__).parents[2]
DANGEROUS = {"subprocess", "shutil", "ctypes", "importlib", "runpy", "socket", "multiprocessing", "pickle", "marshal"}
WRITES = {
    *("system", "popen", "remove", "unlink", "rmdir", "rmtree", "rename", "mkdir"),
    *("write_text", "write_bytes", "savez", "save"),
}


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def hostile_npz(path: Path, mark: Path, name: str) -> Path:
    """An npz file whose array of that name is an object array with a pickle that makes a file."""
    array = np.empty(1, dtype=object)
    array[0] = Evil(mark)
    with zipfile.ZipFile(path, "w") as archive:
        content = io.BytesIO()
        np.lib.format.write_array(content, array, allow_pickle=True)
        archive.writestr(f"{name}.npy", content.getvalue())
    return path


def test_the_hostile_file_is_hostile(tmp_path):
    with np.load(hostile_npz(tmp_path / "x.npz", tmp_path / "mark", "x"), allow_pickle=True) as file:
        file["x"]
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x", lambda path: from_npz(str(path))),
        ("samples", mapped),
        ("made_with", lambda path: Shards(path.parent, "s", {}).is_union(path, 1) and pytest.fail("taken for ours")),
        ("mean", statistics.load),
    ],
)
def test_pickles_in_npz_files_are_not_run(tmp_path, name, read):
    path = hostile_npz(tmp_path / "hostile.npz", tmp_path / "mark", name)
    try:
        read(path)
    except (ValueError, TypeError, OSError) as error:
        assert "\n" not in str(error).strip()
    else:
        assert name == "made_with"  # is_union says no
    assert not (tmp_path / "mark").exists()
    pickled = tmp_path / "raw.npz"
    pickled.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(Exception):  # noqa: B017  # of whatever class: it is not an npz file
        from_npz(str(pickled))
    assert not (tmp_path / "mark").exists()


def trusted_modules():
    for root in (root for root in names.TRUSTED if (ROOT / root).is_dir()):
        for file in sorted((ROOT / root).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if names.trusted(module):
                yield module, file


def deeds(file: Path):
    """What in the file starts processes, runs text or writes, with its line."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] in DANGEROUS)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in DANGEROUS:
            yield node.lineno, node.module
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
            runs = getattr(node.func, "id", "") in ("eval", "exec", "compile")
            if runs or called in WRITES or (called == "open" and any(set(mode) <= set("wax+bt") for mode in modes)):
                yield node.lineno, called


def test_what_a_config_may_name_starts_and_writes_nothing():
    """A name in config.json reaches every public function of these modules, with arguments of its choice."""
    found = {(module, *deed) for module, file in trusted_modules() for deed in deeds(file)}
    assert not found
    assert {call for _, call in deeds(ROOT / "io_lib" / "workdir.py")} >= {"open", "unlink", "mkdir"}


@pytest.mark.parametrize(
    "call",
    ["os:system", "subprocess:run", "data_lib.prepare:by_tfds", "data_lib.prepare:main", "eval_lib.__main__:main",
     "io_lib.workdir:write_atomic", "run_modes.import_published:import_checkpoint", "builtins:exec",
     "data_lib.arrays:np.load", "data_lib.forms:Arrays.write"],
)  # fmt: skip
def test_a_config_cannot_name_what_acts(tmp_path, call):
    text = json.dumps({"x": {"call": call, "path": str(tmp_path / "mark"), "python": "/bin/touch"}})
    with pytest.raises(ConfigError):
        build(from_json(text))
    assert list(tmp_path.iterdir()) == []


READ = """
import json, sys
from pathlib import Path
import jax, numpy as np
from io_lib.checkpoint import Checkpoints
directory, target = Path(sys.argv[1]), {"x": jax.ShapeDtypeStruct((4,), np.float32)}
files = [directory / "1" / "_CHECKPOINT_METADATA", directory / "1" / "default" / "_METADATA"]

def places(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from places(item, (*path, i))
    elif isinstance(value, str):
        yield path

tried = 0
for file in files:
    whole = json.loads(file.read_text())
    for path in places(whole):
        for word in ("evil.Mark", "evil:Mark", "!!python/object/apply:evil.Mark"):
            changed = json.loads(json.dumps(whole))
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = word
            file.write_text(json.dumps(changed))
            tried += 1
            with Checkpoints(directory) as checkpoints:
                for read in (checkpoints.verify, lambda step: checkpoints.restore(target, step), checkpoints.card):
                    try:
                        read(1)
                    except (ValueError, OSError):
                        pass
    file.write_text(json.dumps(whole))
print(tried, "evil" in sys.modules)
"""


def test_names_in_a_checkpoint_are_not_imported(tmp_path):
    """Wherever its JSON holds a text, the name of a module that would make a file stands instead."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"x": np.arange(4, dtype=np.float32)}, {"step": 1})
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n\nclass Mark: ...\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", READ, str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    tried, imported = done.stdout.split()[-2:]
    assert int(tried) > 10 and imported == "False" and not (tmp_path / "mark").exists()
