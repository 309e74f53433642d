"""The library in a real kernel of Jupyter: bars, pictures below the cell, the stop button, classes of a cell."""

import nbclient
import nbformat
import pytest

SETUP = """
import os, signal, threading, time
import jax, numpy as np
import run_lib
from config_lib.spec import spec
from configs.points import get_config
from data_lib import from_arrays
"""
PROCESS = """
import jax.numpy as jnp
from sde_lib import GaussianSDE

class FromACell(GaussianSDE):
    t_max: float = 0.995

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * t)

    def sigma(self, t):
        return jnp.sin(0.5 * jnp.pi * t)
"""
TRAIN = """
config = get_config()
config.sde = spec(FromACell)
config.training.update(num_steps={steps}, batch_size=32, log_every=50, sample_every=100, snapshot_size=16)
x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
print("complete:", run_lib.train(config, "run", from_arrays(x), show=True))
"""
STOP_SOON = """
def stop():
    while not (os.path.exists("run/metrics.jsonl") and "100" in open("run/metrics.jsonl").read()):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)  # what the stop button sends

threading.Thread(target=stop).start()
"""
LOAD = 'print(run_lib.load("run").sample(jax.random.key(0), 4).shape)'


def executed(folder, *cells: str) -> list:
    """The outputs of each cell in a kernel of its own that works in the folder."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def text(outputs: list) -> str:
    return "".join(output.get("text", "") for output in outputs if output.output_type == "stream")


def error(outputs: list) -> str:
    return "".join(output.evalue for output in outputs if output.output_type == "error")


def kinds(outputs: list) -> set[str]:
    return {kind for output in outputs if "data" in output for kind in output.data}


@pytest.fixture(scope="module")
def first(tmp_path_factory, request):
    """A session whose training is stopped and resumed, and the next one, after a restart."""
    folder = tmp_path_factory.mktemp("notebook")
    long = TRAIN.format(steps=100_000)
    before = executed(folder, SETUP, PROCESS, STOP_SOON, long, "print('the kernel lives')", "run_lib.show('run')")
    after = executed(folder, SETUP, LOAD, PROCESS, LOAD)
    return before, after, sorted(path.name for path in (folder / "run" / "samples").glob("step_*.png"))


def test_the_stop_button_ends_training_and_nothing_else(first):
    """Its checkpoint is written, train returns False, and the kernel goes on with the next cell."""
    training, next_cell = first[0][3:5]
    assert not error(training), error(training)
    assert "complete: False" in text(training) and "the same command resumes" in text(training)
    assert "the kernel lives" in text(next_cell)


def test_bars_are_jupyters(first):
    training = first[0][3]
    assert "application/vnd.jupyter.widget-view+json" in kinds(training)
    assert "step 100/" not in text(training)  # not the lines of a log file


def test_losses_and_snapshots_are_shown_below_the_cell(first):
    """One picture, replaced as training proceeds; `show` returns it afterwards. Points have snapshots, as images do."""
    pictures = [output for output in first[0][3] if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    assert "image/png" in kinds(first[0][5])
    assert first[2][0] == "step_0000100.png"


def test_a_class_of_a_cell_after_a_restart(first):
    """One line until its cell has run again, and then the trained model."""
    without, _, with_it = first[1][1:]
    assert "define FromACell here before this call" in error(without)
    assert len(error(without)) < 300
    assert "(4, 2)" in text(with_it)
