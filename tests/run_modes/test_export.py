"""A run as one file of safetensors and back; commands that read published files; damaged files; names on the Hub."""

import json
import random
import shutil
import tracemalloc

import jax
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError
from io_lib import hub
from published_lib.formats import describe
from published_lib.safetensors_file import read_safetensors
from run_modes.export import export
from run_modes.import_published import import_checkpoint
from tests.io_lib.hub_server import hub_on_this_machine
from tests.published_lib.test_formats import FILES, GOLDEN
from tests.test_main import checkpoints, main

pytestmark = pytest.mark.usefixtures("usual_promotion")
SIT = GOLDEN / "sit" / FILES["sit"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory of a small published network, made by the command."""
    folder = tmp_path_factory.mktemp("run")
    done = main("--mode=import", f"--checkpoint={SIT}", f"--workdir={folder / 'run'}", "--config.network.heads=2")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].endswith("SiT. License of the weights: MIT.") and "  from the config: network.heads = 2" in said
    assert any(line.startswith("  from the file: sde = RectifiedFlow") for line in said)
    assert checkpoints(folder / "run") == [0]
    return folder / "run"


def test_what_is_exported_is_read_back(run, tmp_path):
    file = export(run, tmp_path / "sit.safetensors")
    model = run_lib.load(run)
    by_name = read_safetensors(file)
    assert (
        by_name["DiTBlock_0.Dense_1.kernel"].tobytes()
        == np.asarray(model.params["DiTBlock_0"]["Dense_1"]["kernel"]).tobytes()
    )
    assert import_checkpoint(None, file, tmp_path / "again") == 0
    again = run_lib.load(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
    assert (tmp_path / "again" / "config.json").read_text() == (run / "config.json").read_text()


def test_plain_numpy_reads_an_export(run, tmp_path):
    """The code of docs/published_models.md."""
    page = (GOLDEN.parents[2] / "docs" / "published_models.md").read_text()
    names: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    file = export(run, tmp_path / "sit.safetensors")
    arrays, texts = names["read"](file)
    expected = read_safetensors(file)
    assert arrays.keys() == expected.keys() and all((arrays[name] == expected[name]).all() for name in arrays)
    assert json.loads(texts["config"])["network"]["heads"] == 2 and json.loads(texts["card"])["license"] == "MIT"


def test_exports_that_are_refused(run, tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"")
    for name in ("there.safetensors", "a.bin"):
        with pytest.raises(ConfigError, match=r"expected a new file that ends in \.safetensors"):
            export(run, tmp_path / name)
    with pytest.raises(ConfigError, match="expected a file of --mode=export; for weights of diffusers give the folder"):
        import_checkpoint(None, GOLDEN / "diffusers_class" / "diffusion_pytorch_model.safetensors", tmp_path / "run")


# Damaged files


def mutated(rng, raw):
    """The bytes with flipped bits, cut, with others inserted, or with a header that claims too much."""
    raw, k = bytearray(raw), rng.randrange(len(raw))
    kind = rng.choice(("flip", "cut", "insert", "header"))
    if kind == "flip":
        for _ in range(rng.choice((1, 3, 30))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del raw[k:]
    elif kind == "insert":
        raw[k:k] = rng.randbytes(rng.choice((1, 8, 100)))
    else:
        k = rng.randrange(min(len(raw), 3000))
        raw[k : k + 8] = b"\xff" * len(raw[k : k + 8])
    return bytes(raw)


def damage(tmp_path, files, trials, seed):
    """Describes mutated files; the number refused. Anything but a ValueError of one line fails, and so does memory."""
    rng, refused = random.Random(seed), 0
    contents = {file: file.read_bytes() for file in files}
    tracemalloc.start()
    for _ in range(trials):
        file = rng.choice(files)
        raw = mutated(rng, contents[file])
        (tmp_path / file.name).write_bytes(raw)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            description = describe(tmp_path / file.name)
            if description is not None and "network" in description.sections:
                description.leaves({"head_features": 8})
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(tmp_path / file.name) in str(error)
        except (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError):
            refused += 1  # of the leaves, which `import_published.read` refuses in one line
        # Besides the numbers, a pickle's small objects, which do not grow with a real file.
        assert tracemalloc.get_traced_memory()[1] - before < 2 * len(raw) + 600_000
    tracemalloc.stop()
    return refused


@pytest.mark.parametrize("trials", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_in_one_line(run, tmp_path, trials):
    file = export(run, tmp_path / "ours.safetensors")
    (tmp_path / "damaged").mkdir()
    edm = GOLDEN / "edm_cond" / "network-snapshot-004000.pkl"
    files = [SIT, file, GOLDEN / "edm2_cond" / FILES["edm2_cond"], GOLDEN / "dit_train" / FILES["dit_train"]]
    assert damage(tmp_path / "damaged", [*files, edm], trials, seed=trials) > trials // 3


# The Hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_published_model_on_the_hub(monkeypatch, tmp_path):
    """A folder of diffusers, one file, and repositories in which it is not clear; then from the cache alone."""
    folder = GOLDEN / "diffusers_class"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "golden.npz"}
    with hub_on_this_machine(monkeypatch, tmp_path / "cache") as server:
        server.add("google/ddpm", {**files, "model.py": b"raise SystemExit"})
        server.add("someone/sit", {SIT.name: SIT.read_bytes(), "README.md": b"x"})
        server.add("someone/two", {"a.pt": b"1", "b.pt": b"2"})
        found = hub.download_published("hf:google/ddpm")
        assert {path.name for path in found.iterdir()} == set(files)
        assert describe(found).sections["network"].options["num_classes"] == 10
        assert hub.download_published("hf:someone/sit").name == SIT.name
        with pytest.raises(ConfigError, match=r"or one file of weights, got a\.pt, b\.pt"):
            hub.download_published("hf:someone/two")
        with pytest.raises(ConfigError, match="the Hub has no such repository"):
            hub.download_published("hf:nobody/none")


def test_a_folder_that_is_nothing(tmp_path):
    shutil.copytree(GOLDEN / "diffusers_class", tmp_path / "folder")
    (tmp_path / "folder" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="expected weights in"):
        import_checkpoint(None, tmp_path / "folder", tmp_path / "run")
    with pytest.raises(ConfigError, match="there is no such file"):
        import_checkpoint(None, tmp_path / "none", tmp_path / "run")
