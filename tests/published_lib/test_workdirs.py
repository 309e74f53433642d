"""Every published checkpoint of the tests, imported: sampling, likelihood and training go on from its directory."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_lib
from config_lib.spec import spec
from configs.published import annealed
from data_lib import from_npz
from io_lib.metrics import read_metrics
from models import NCSNv2
from published_lib.score_sde_names import parameter_shapes
from run_modes.experiment import make_experiment
from run_modes.import_published import import_checkpoint, read_published
from sde_lib import Likelihood, Sampler
from sde_lib.solvers import AnnealedLangevin, NoPredictor, PredictorCorrector
from sde_lib.solvers.integrate import Adaptive
from tests.published_lib.published import GOLDEN, NETWORKS, STEP, config_of
from tests.published_lib.test_parity_ncsnv2 import LEVELS, TORCH
from tests.test_run_lib import final_state

pytestmark = pytest.mark.usefixtures("usual_promotion")

FILES = sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.glob("*/*") if path.suffix in (".msgpack", ".pth"))


def config_for(file):
    """The config of a published experiment in small: its network and process, two images a step, 4 steps of sampling;
    annealed Langevin dynamics, three moves at each of 8 of the levels, for NCSNv2."""
    name, kind = file.split("/")
    if name in NETWORKS:
        config = config_of(name)
        config.sampling.short = spec(Sampler, num_steps=4)
    else:
        config = annealed(config_of("ncsnpp_ve"), sigma_max=50.0, num_scales=LEVELS, steps=5, snr=0.176)
        config.network = spec(NCSNv2, nf=4, **(TORCH if kind == "torch.pth" else {}))
        moves = AnnealedLangevin(snr=0.176, steps=3)
        solver = PredictorCorrector(predictor=NoPredictor(), corrector=moves, corrector_first=False)
        config.sampling.short = spec(Sampler, solver=solver, num_steps=8)
    config.sampling.use = "short"
    config.sampling.batch_size = 4
    config.training.update(
        batch_size=2, num_steps=STEP + 3, log_every=1, eval_every=0, sample_every=0, checkpoint_every=0
    )
    config.eval.bpd.update(split="test", count=2)
    config.eval.likelihood = spec(Likelihood, solver=Adaptive(rtol=1e-2, atol=1e-2), to_data=True)  # scores of noise
    config.eval.batch_size = 2
    return config


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_published_checkpoint_goes_on(file, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=images)
    config, device = config_for(file), jax.devices()[:1]
    config.data = spec(from_npz, path=str(tmp_path / "images.npz"), test=2)
    assert import_checkpoint(config, GOLDEN / file, tmp_path / "run") == STEP
    published = read_published(GOLDEN / file, parameter_shapes(make_experiment(config).network, tuple(config.shape)))

    # Sampling and likelihood, of the averages, of pixels that are noise of 8 bits each: no model takes fewer.
    model = run_lib.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, model.params, published.ema_params)
    drawn = run_lib.sample(tmp_path / "run", 4, seed=1, devices=device)
    x = np.asarray(model.sample_indices(jax.random.key(1), jnp.arange(4))).reshape(4, -1)
    expected = np.clip(np.round(127.5 * (x + 1)), 0, 255)
    assert np.mean(np.abs(drawn.reshape(4, -1) - expected) > 1) < 0.01 and np.any(drawn[0] != drawn[1])
    report = run_lib.evaluate(tmp_path / "run", 4, seed=1, config=config, devices=device)
    assert report["step"] == STEP and np.isfinite(report["eval_loss"])
    bits = json.loads((tmp_path / "run" / "eval" / "report.json").read_text())["bits"]["flow"]
    assert 8 < bits["mean"] < 100 and np.isfinite(bits["mean"])

    # Training, of the parameters themselves, with Adam's moments where the file has some.
    before = final_state(tmp_path / "run", config)
    assert run_lib.train(config, tmp_path / "run", devices=device)
    after = final_state(tmp_path / "run", config)
    assert after[".step"] == STEP + 3
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [STEP, STEP + 1, STEP + 2, STEP + 3]
    moved = [name for name in before if name.startswith(".params") and np.any(before[name] != after[name])]
    assert len(moved) > 0.9 * sum(name.startswith(".params") for name in before)
    counts = [name for name in before if name.endswith(".count")]
    assert counts and all(after[name] == before[name] + 3 for name in counts)
