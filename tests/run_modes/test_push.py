"""A run goes to the Hub and comes back the same, by the server of `tests/io_lib/hub_server.py`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import run_lib
from config_lib.spec import ConfigError, to_json
from data_lib import from_arrays
from io_lib import hub, workdir
from io_lib.checkpoint import Checkpoints, DamagedError
from run_modes import push
from run_modes.state import digest
from run_modes.trained import guide_of
from tests.io_lib.hub_server import hub_on_this_machine
from tests.run_modes.test_changes import DEVICES, X, constant, train
from tests.test_run_lib import final_state

pytestmark = [
    pytest.mark.usefixtures("usual_promotion"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # in uploads of huggingface_hub
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four steps, with a license, an evaluation and a picture."""
    directory = tmp_path_factory.mktemp("push") / "run"
    config = constant()
    config.license = "Apache-2.0"
    with jax.numpy_dtype_promotion("standard"):
        assert train(config, directory)
    (directory / "samples").mkdir(exist_ok=True)
    Image.new("L", (3, 2), 128).save(directory / "samples" / "samples.png")
    (directory / "samples" / "shards").mkdir()
    (directory / "samples" / "shards" / "0.npz").write_bytes(b"cached")
    (directory / "eval").mkdir()
    (directory / "eval" / "report.json").write_text(json.dumps({"step": 4, "eval_loss": 0.4321, "code": "abc"}))
    return directory


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hub_on_this_machine(monkeypatch, tmp_path / "cache") as server:
        yield server


def uploaded(server):
    return server.files("me/points")[1]


def test_a_run_comes_back_the_same(run, server, capsys):
    """Parameters bit for bit, and samples; it is read where it was downloaded."""
    assert run_lib.push(run, "me/points") == f"{server.address}/me/points"
    said = capsys.readouterr().out
    there, loaded = run_lib.load(run), run_lib.load("hf:me/points")
    for a, b in zip(jax.tree.leaves(there.params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(a, b)
    key = jax.random.key(3)
    np.testing.assert_array_equal(there.sample(key, 5), loaded.sample(key, 5))
    assert run_lib.load("hf:me/points@main", step=4).params.keys() == there.params.keys()
    with pytest.raises(ConfigError, match=r"no checkpoint of step 2 in .*; it holds steps \[4\]"):
        run_lib.load("hf:me/points", step=2)

    found = uploaded(server)
    assert {path for path in found if not path.startswith("checkpoints/4/")} == {
        *("config.json", "metrics.jsonl", "data.json", "samples.png", "README.md", ".gitattributes"),
    }
    for path in ("config.json", "metrics.jsonl", "data.json"):
        assert found[path] == (run / path).read_bytes()
    on_disk = sum(file.stat().st_size for file in (run / "checkpoints" / "4").rglob("*") if file.is_file())
    assert sum(len(found[path]) for path in found if path.startswith("checkpoints/4/")) == on_disk
    total = sum(map(len, found.values())) - len(found[".gitattributes"])
    assert f"checkpoints/4 {push.readable(on_disk)}, config.json {push.readable(len(found['config.json']))}" in said
    assert f"uploading {push.readable(total)}\n" in said
    assert "the license of the data is not recorded" in said and "license of the weights" not in said


def test_the_model_card(run, server):
    run_lib.push(run, "hf:me/points", private=True)
    assert server.repositories["me/points"][0] is True
    head, body = uploaded(server)["README.md"].decode().removeprefix("---\n").split("\n---\n", 1)
    found = yaml.safe_load(head)
    assert (found["license"], found["library_name"]) == ("apache-2.0", "score-sde-jax")
    assert "diffusion" in found["tags"] and "license_name" not in found and "pipeline_tag" not in found
    assert 'model = run_lib.load("hf:me/points")' in body and "![Samples](samples.png)" in body
    assert "| license of the weights | Apache-2.0 |" in body and "| license of the data | not recorded |" in body
    with Checkpoints(run / "checkpoints") as checkpoints:
        card = checkpoints.card(4)
    assert f"| SHA-256 of the EMA parameters | {card['hash']['ema_params']} |" in body
    assert card["hash"]["ema_params"] == digest(run_lib.load("hf:me/points").params)
    data = card["data"]
    assert f"{data['train']} train examples, SHA-256 {data['sha256']['train']}" in body
    assert "| eval_loss | 0.4321 |" in body and "| step | 4 |" in body
    code = body.split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)  # the three lines load it
    assert names["x"].shape == (16, 2)


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("not stated", {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("ours: {all} | rights\n", {"license": "other", "license_name": "ours-all-rights"}),
    ],
)
def test_licenses_of_model_cards(license, expected):
    config = constant()
    config.shape = (8, 8, 3)
    text = push.model_card("a/b", 1, {"license": license, "data": {"source": "a|b\n<img>"}}, config, {}, False)
    found = yaml.safe_load(text.split("---\n")[1])
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected
    assert found["pipeline_tag"] == "unconditional-image-generation"
    assert "samples.png" not in text and "last evaluation" not in text and "| data | a\\|b &lt;img> |" in text
    said = push.remarks({"license": license}, config)
    assert any("weights" in line for line in said) == (license == "not stated")


def test_an_earlier_step_replaces_a_later_one(run, server):
    run_lib.push(run, "me/points")
    run_lib.push(run, "me/points", step=2)
    assert {path.split("/")[1] for path in uploaded(server) if path.startswith("checkpoints/")} == {"2"}
    expected = run_lib.load(run, step=2).params
    assert digest(run_lib.load("hf:me/points").params) == digest(expected)


def test_the_place_of_the_data_is_said():
    config = constant()
    config.data.path = "/home/me/photos"
    assert push.remarks({}, config)[-1] == "config.json and the checkpoint name the place of the data: /home/me/photos"
    assert "/home/me" not in push.model_card("a/b", 1, {"data": {"source": config.data.to_dict()}}, config, {}, False)


def test_a_picture_of_training_without_samples(run):
    (run / "samples" / "samples.png").unlink()
    assert "samples.png" not in push.files_of(run, 4)
    for step in (2, 4):
        (run / "samples" / f"step_{step:07d}.png").touch()
    assert push.files_of(run, 4)["samples.png"].name == "step_0000004.png"


def test_what_is_not_pushed(run, server):
    with pytest.raises(ConfigError, match=r"has no checkpoint of step 3: \[2, 4\]"):
        run_lib.push(run, "me/points", step=3)
    with pytest.raises(ConfigError, match=r"is not a work directory: it has no config\.json"):
        run_lib.push(run / "samples", "me/points")
    for name in ("points", "me/points/more", "https://huggingface.co/me/points"):
        with pytest.raises(ConfigError, match="expected hf:OWNER/NAME"):
            run_lib.push(run, name)
    with pytest.raises(ConfigError, match="--to=me/points@v1: expected OWNER/NAME"):
        run_lib.push(run, "me/points@v1")
    for file in (run / "checkpoints" / "4" / "default" / "d").iterdir():
        file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(ConfigError, match="checkpoints/4"):
        run_lib.push(run, "me/points")
    assert not server.repositories


def test_a_checkpoint_is_verified_before_it_is_pushed(run, server, monkeypatch):
    def damaged(self, step):
        raise DamagedError(f"checkpoint {step}: a leaf differs from what was written")

    monkeypatch.setattr(Checkpoints, "verify", damaged)
    with pytest.raises(ConfigError, match="checkpoint 4: a leaf differs"):
        run_lib.push(run, "me/points")
    assert not server.repositories


def test_pull_makes_a_work_directory(run, server, tmp_path):
    """It can be sampled, and trained further to the state that the original reaches."""
    run_lib.push(run, "me/points")
    server.commit("me/points", uploaded(server) | {"hook.py": b"raise SystemExit"})
    (hub.download("hf:me/points") / "hook.py").touch()  # the cache is shared with other downloads
    pulled = run_lib.pull("me/points", tmp_path / "there" / "pulled")
    assert not [path for path in pulled.rglob("*") if path.is_symlink() or path.suffix == ".py"]
    assert sorted(path.name for path in pulled.parent.iterdir()) == ["pulled"]
    np.testing.assert_array_equal(run_lib.sample(pulled, 4, devices=DEVICES), run_lib.sample(run, 4, devices=DEVICES))
    config = workdir.load_config(run)
    config.training.num_steps = 6
    for directory in (run, pulled):
        assert run_lib.train(config, directory, from_arrays(X), DEVICES)
    expected = final_state(run, config)
    for name, value in final_state(pulled, config).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    with pytest.raises(ConfigError, match="is not empty: choose another --workdir"):
        run_lib.pull("hf:me/points", pulled)


def test_a_run_on_the_hub_is_only_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda name: run_lib.sample(name, 4),
        lambda name: run_lib.evaluate(name),
        lambda name: run_lib.restore(name, "inpaint"),
        lambda name: run_lib.train(constant(), name),
        lambda name: run_lib.push(name, "me/other"),
        lambda name: run_lib.pull("me/points", name),
    ):
        with pytest.raises(ConfigError, match="hf:me/points is on the Hub, where it can only be read"):
            call("hf:me/points")
    assert not list(tmp_path.iterdir())


def test_training_starts_from_a_run_on_the_hub(run, server, tmp_path):
    run_lib.push(run, "me/points")
    config = constant(num_steps=1)
    config.optimizer.learning_rate = 1e-30  # leaves float32 parameters as they are
    config.initial = "hf:me/points"
    assert train(config, tmp_path / "new")
    found, source = final_state(tmp_path / "new", config), final_state(run, constant())
    for name in (name for name in source if name.startswith(".ema_params")):
        np.testing.assert_array_equal(found[name.replace("ema_params", "params")], source[name])
    assert workdir.load_config(tmp_path / "new").initial == "hf:me/points"


def test_a_classifier_on_the_hub(run, monkeypatch):
    """It is downloaded, and then a directory like others: this one holds a model of the score."""
    monkeypatch.setattr(hub, "download", {"hf:me/points": run}.__getitem__)
    config = constant()
    config.sampling.classifier = "hf:me/points"
    with pytest.raises(ConfigError, match=r"config\.sampling\.classifier: .*expected a run with config\.objective"):
        guide_of(config, DEVICES)


def test_a_config_of_others_runs_no_code(run, server, tmp_path, monkeypatch):
    """A name outside the installed packages is refused, also if a module of that name can be imported."""
    run_lib.push(run, "me/points")
    config = workdir.load_config(run)
    config.sde = {"call": "evil:run"}
    server.commit("me/points", uploaded(server) | {"config.json": to_json(config).encode(), "evil.py": b"1"})
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.sde is `evil:run`, defined outside the installed packages"):
        run_lib.load("hf:me/points")
    assert not (tmp_path / "ran").exists() and "evil" not in sys.modules


def test_the_command_line(run, server, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def main(*arguments):
        command = [sys.executable, "main.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    done = main("--mode=push", f"--workdir={run}", "--to=me/points", "--private")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{server.address}/me/points", done.stderr
    assert server.repositories["me/points"][0] is True
    done = main("--mode=inspect", "--workdir=hf:me/points")
    assert done.returncode == 0 and "intact: every leaf is as it was written" in done.stdout, done.stderr
    done = main("--mode=pull", "--from=me/points", f"--workdir={tmp_path / 'pulled'}")
    assert done.returncode == 0 and (tmp_path / "pulled" / "config.json").is_file(), done.stderr
    done = main("--mode=sample", "--workdir=hf:me/points")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "--mode=pull --from=hf:me/points --workdir=DIR" in line
