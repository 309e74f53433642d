"""Download and upload of runs, by requests to a server on this machine that speaks the Hub's HTTP API."""

import json
import sys

import pytest

from config_lib.names import ConfigError
from io_lib import hub
from tests.io_lib.hub_server import hub_on_this_machine

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in uploads of huggingface_hub
CONFIG = json.dumps({"sde": {}, "network": {}, "shape": [2]}).encode()
CARD = b'---\nlicense: "mit"\n---\n# A run\n'
RUN = {"config.json": CONFIG, "checkpoints/40/state": bytes(range(256)) * 8, "README.md": CARD}


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hub_on_this_machine(monkeypatch, tmp_path / "cache") as server:
        yield server


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names():
    assert hub.parse("hf:owner/name") == ("owner/name", None)
    assert hub.parse("hf:o-w.n/n_a.m-e@refs/pr/1") == ("o-w.n/n_a.m-e", "refs/pr/1")
    assert hub.is_remote("hf:owner/name") and not hub.is_remote("runs/hf:owner/name") and not hub.is_remote(None)
    for wrong in ("hf:name", "hf:a/b/c", "hf:/b", "hf:a/", "hf:a/b@", "hf:../b", "hf:a/b c", "hf:a/b@-x", "hf:a/b\n"):
        with pytest.raises(ConfigError, match=r"expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION"):
            hub.parse(wrong)


def test_what_is_uploaded_is_what_is_downloaded(server, tmp_path):
    large = tmp_path / "state"
    large.write_bytes(RUN["checkpoints/40/state"])
    address = hub.upload("me/run", {**RUN, "checkpoints/40/state": large}, "Step 40")
    assert address == f"{server.address}/me/run" and server.repositories["me/run"][0] is False
    assert contents(hub.download("hf:me/run")) == RUN
    assert any(method == "PUT" for method, _ in server.requests)  # the checkpoint went by LFS


def test_a_push_replaces_the_run_and_nothing_else(server):
    """A checkpoint of an older or a later step would else be the one that is loaded."""
    hub.upload("me/run", {**RUN, "samples.png": b"old"}, "Step 40")
    first = server.files("me/run")[0]
    server.commit("me/run", server.files("me/run")[1] | {"notes.md": b"mine"})
    hub.upload("me/run", {"config.json": CONFIG, "checkpoints/20/state": b"new", "README.md": CARD}, "Step 20")
    expected = {".gitattributes", "notes.md", "config.json", "README.md", "checkpoints/20/state"}
    assert set(server.files("me/run")[1]) == expected
    assert set(contents(hub.download("hf:me/run"))) == {"config.json", "README.md", "checkpoints/20/state"}
    assert contents(hub.download(f"hf:me/run@{first}")) == {**RUN, "samples.png": b"old"}


def test_a_revision_of_a_repository_that_holds_something_else_now(server):
    server.add("me/run", RUN)
    first = server.files("me/run")[0]
    server.commit("me/run", {"config.json": b'{"model_type": "unet"}'})
    assert contents(hub.download(f"hf:me/run@{first}")) == RUN


def test_a_new_repository_is_private_if_asked(server):
    hub.upload("me/run", RUN, "Step 40", private=True)
    assert server.repositories["me/run"][0] is True


def test_no_code_of_a_repository_is_downloaded(server):
    code = {
        "network.py": b"raise SystemExit",
        "checkpoints.py": b"1",
        "checkpoints/hook.py": b"1",
        "config.json.py": b"1",
    }
    server.add("me/run", RUN | code)
    assert contents(hub.download("hf:me/run")) == RUN
    assert not [path for _, path in server.requests if path.endswith(".py")]


def test_a_cached_run_needs_no_network(server, monkeypatch):
    server.add("me/run", RUN)
    hub.download("hf:me/run")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries again for 12 s
    assert contents(hub.download("hf:me/run")) == RUN
    with pytest.raises(ConfigError, match="hf:me/other: the Hub cannot be reached, and the run is not in the cache"):
        hub.download("hf:me/other")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": b"1"}, "there is no config.json"),
        ({"config.json": b"{"}, "its config.json is not JSON"),
        ({"config.json": b"[1]"}, "its config.json lacks some of sde, network, shape"),
        ({"config.json": b'{"model_type": "unet"}', "checkpoints/1/x": b"1"}, "its config.json lacks some of sde"),
        ({"config.json": CONFIG, "README.md": CARD}, "there is no checkpoint next to README.md, config.json"),
    ],
)
def test_repositories_of_others(server, files, reason):
    server.add("me/run", files)
    with pytest.raises(
        ConfigError, match=r"is not a run of score-sde-jax, which has config\.json and checkpoints/STEP: "
    ):
        hub.download("hf:me/run")
    with pytest.raises(ConfigError, match=reason):
        hub.download("hf:me/run")
    assert not [path for _, path in server.requests if "checkpoints" in path]  # nothing large was fetched


def test_errors_of_the_hub(server, monkeypatch):
    server.add("me/run", RUN)
    server.add("me/private", RUN, private=True)
    with pytest.raises(ConfigError, match="hf:me/none: the Hub has no such repository, or it is private and"):
        hub.download("hf:me/none")
    with pytest.raises(ConfigError, match="hf:me/a--b: Cannot have -- or"):
        hub.download("hf:me/a--b")
    with pytest.raises(ConfigError, match="hf:me/run@v2: the repository has no such revision"):
        hub.download("hf:me/run@v2")
    with pytest.raises(ConfigError, match="hf:me/run is public, and --private does not change that: nothing"):
        hub.upload("me/run", RUN, "Step 40", private=True)
    assert len(server.repositories["me/run"][1]) == 1
    assert contents(hub.download("hf:me/private")) == RUN
    hub.upload("me/private", RUN, "Step 40", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    with pytest.raises(ConfigError, match=r"hf:me/new: .*401.*; `hf auth login` logs in"):
        hub.upload("me/new", RUN, "Step 40")
    with pytest.raises(ConfigError, match="hf:me/private@v2: the Hub has no such repository"):
        hub.download("hf:me/private@v2")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"which is not installed: pip install 'score-sde-jax\[huggingface\]'"):
        hub.download("hf:me/run")


def test_a_work_directory_is_required():
    with pytest.raises(ConfigError, match=r"--mode=pull --from=hf:me/run --workdir=DIR makes a work directory of it"):
        hub.require_local("hf:me/run")
    hub.require_local("runs/digits")
    assert hub.local("runs/digits") == "runs/digits"
