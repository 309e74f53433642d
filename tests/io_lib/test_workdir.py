"""A work directory belongs to one config."""

import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, to_json
from io_lib import workdir

ROOT = Path(__file__).parents[2]


def config(**changes) -> str:
    return to_json(ConfigDict({"a": 1, "b": 2.0, "c": {"d": "x", "e": (1, 2)}, **changes}))


def test_claim_writes_the_config_and_accepts_it_again(tmp_path):
    folder = workdir.claim(tmp_path / "new" / "run", config())
    assert workdir.claim(folder, config()) == folder == tmp_path / "new" / "run"
    assert (folder / "config.json").read_text() == config()
    assert workdir.load_config(folder).c.e == (1, 2)


def test_claim_refuses_another_config_and_keeps_the_old(tmp_path):
    workdir.claim(tmp_path, config())
    message = r"another config: config\.a: 1 -> 5; config\.b: 2\.0 -> 3\.0; config\.c\.d: 'x' -> 'y' and 1 more$"
    with pytest.raises(ValueError, match=message):
        workdir.claim(tmp_path, config(a=5, b=3.0, c={"d": "y", "e": (2, 1)}))
    assert (tmp_path / "config.json").read_text() == config()


def test_what_a_later_version_can_vary_in_sampling_is_no_other_run(tmp_path):
    """A key that is new there, or in evaluation; not one that is new in training, nor one that has changed."""
    workdir.claim(tmp_path, config(sampling={"label": -1}, eval={"n": 1}, training={"steps": 3}))
    workdir.claim(
        tmp_path, config(sampling={"label": -1, "guidance": 1.0}, eval={"n": 1, "k": 2}, training={"steps": 3})
    )
    for changed, message in (
        ({"sampling": {"label": 2, "guidance": 1.0}}, r"another config: config\.sampling\.label: -1 -> 2$"),
        ({"sampling": {"other": 1}}, r"another config: config\.sampling\.label: -1 -> \(absent\)$"),
        ({"training": {"steps": 3, "skip": True}}, r"another config: config\.training\.skip: \(absent\) -> True$"),
    ):
        with pytest.raises(ValueError, match=message):
            workdir.claim(
                tmp_path, config(**{"sampling": {"label": -1}, "eval": {"n": 1}, "training": {"steps": 3}, **changed})
            )


def test_claim_refuses_what_is_no_work_directory(tmp_path):
    for name in "zyxw":
        (tmp_path / name).touch()
    with pytest.raises(
        ValueError, match=r"is not a work directory: it has no config\.json and holds w, x, y and 1 more"
    ):
        workdir.claim(tmp_path, config())
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(ValueError, match="z is a file: expected a work directory"):
        workdir.claim(tmp_path / "z", config())


def test_claim_after_a_kill_while_it_wrote(tmp_path):
    (tmp_path / ".config.json.123.tmp").write_text("{")
    workdir.claim(tmp_path, config())
    assert workdir.load_config(tmp_path).a == 1


def test_load_config_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a work directory: it has no config\.json"):
        workdir.load_config(tmp_path)


def test_write_atomic_leaves_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "f"
    workdir.write_atomic(path, "old")
    workdir.write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer" and list(tmp_path.iterdir()) == [path]

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(workdir.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        workdir.write_atomic(path, "lost")
    assert path.read_bytes() == b"newer" and list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed(tmp_path):
    """Their own files of the same name alone: not those of a process that lives, nor of another machine."""
    host = workdir.os.uname().nodename
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {f".f.{host}.{dead.pid}.tmp": False, f".f.{host}.{workdir.os.getppid()}.tmp": True,
            f".f.elsewhere.{dead.pid}.tmp": True, f".g.{host}.{dead.pid}.tmp": True}  # fmt: skip
    for name in left:
        (tmp_path / name).write_text("half of i")
    workdir.write_atomic(tmp_path / "f", "whole")
    kept = {name for name, stays in left.items() if stays}
    assert {p.name for p in tmp_path.iterdir()} == {"f", *kept} and (tmp_path / "f").read_text() == "whole"


def test_lock(tmp_path):
    """A second process is refused, by the first one's number; a kill of the first leaves nothing behind."""
    code = f"""
import sys, time
from io_lib.workdir import lock
with lock({str(tmp_path)!r}, "training"):
    print("in", flush=True)
    time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout.readline() == "in\n"
    said = f"process {first.pid} is training in it already"
    with pytest.raises(ConfigError, match=said), workdir.lock(tmp_path, "training"):
        pass
    with workdir.lock(tmp_path, "sampling"):
        pass
    first.kill()
    first.communicate()
    with workdir.lock(tmp_path, "training"):
        pass
