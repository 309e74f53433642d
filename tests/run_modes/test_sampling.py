"""Sampling from a work directory: what decides a sample, what is kept, what is refused."""

import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

import run_lib
from config_lib.spec import ConfigError, bind, spec
from data_lib import Identity, Scale, from_arrays
from io_lib import pictures
from run_modes import sample
from run_modes.trained import open_trained
from sde_lib import VE, AdaptiveSDE, EDMGrid, PowerGrid, ProbabilityFlowODE, Sampler
from sde_lib.solvers import Ancestral, Heun, Langevin, PredictorCorrector
from tests.helpers import close
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

corrected = PredictorCorrector(predictor=Ancestral(), corrector=Langevin(snr=0.16))
published = PredictorCorrector(predictor=Ancestral(), corrector=Langevin(snr=0.16, norm="batch"))
SAMPLERS = {
    "pc": spec(Sampler, solver=corrected, grid=PowerGrid(t_end=1e-2), num_steps=5),
    "ode": spec(Sampler, solver=Heun(), grid=EDMGrid(t_end=1e-2), num_steps=5),
    "adaptive": spec(AdaptiveSDE, rel_tol=0.2, abs_tol=0.1, t_end=1e-2),
    "flow": spec(ProbabilityFlowODE, t_end=1e-2),
    "coupled": spec(Sampler, solver=published, num_steps=3),
}


def trained(directory, shape=(2,), **changes):
    """A work directory of a run of two steps, for events of that shape, and its config."""
    config = get_config()
    config.shape, config.transform = shape, spec(Identity)
    config.training.update(num_steps=2, batch_size=8, log_every=0, eval_every=0, sample_every=0)
    for name, sampler in SAMPLERS.items():  # `update` would merge a section into the one before
        config.sampling[name] = sampler
    for name, value in changes.items():
        config[name] = value
    del config.eval["report"]
    x = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(config, directory, from_arrays(x), devices=jax.devices()[:1])
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    return directory, trained(directory)


@pytest.fixture
def fresh(run):
    """The trained directory, without samples."""
    directory, config = run
    shutil.rmtree(directory / "samples", ignore_errors=True)
    config.sampling.update(use="pc", batch_size=16)
    config.sampling.pc.num_steps = 5
    return directory, config


def files(directory):
    """The names of the files of samples, by folder."""
    return {f.name: sorted(p.name for p in f.glob("*.npz")) for f in (directory / "samples" / "shards").glob("*")}


SOME, MORE = ((3, 1, 1),), ((16, 7, 1), (16, 7, 4), (64, 64, 1), (64, 64, 2))  # (count, batch size, devices)


@pytest.mark.parametrize(
    "use", ["pc", *(pytest.param(use, marks=pytest.mark.slow) for use in ("ode", "adaptive", "flow"))]
)
@pytest.mark.parametrize("cases", [SOME, pytest.param(MORE, marks=pytest.mark.slow)], ids=["some", "more"])
def test_a_sample_is_a_function_of_seed_and_number(fresh, use, cases):
    """For batches of 1, 7 and 64, one to eight devices, and any range of numbers: to 1e-5."""
    directory, config = fresh
    config.sampling.use = use

    def drawn(count, batch_size, devices):
        shutil.rmtree(directory / "samples", ignore_errors=True)
        config.sampling.batch_size = batch_size
        return np.array(run_lib.sample(directory, count, 5, config, devices=jax.devices()[:devices]))

    x = drawn(64, 64, 8)
    assert np.unique(x, axis=0).shape == x.shape and np.std(x) > 0.1
    for count, batch_size, devices in cases:
        close(drawn(count, batch_size, devices), x[:count], 1e-5)
    model = run_lib.load(directory, config)
    close(model.sample_indices(jax.random.key(5), jnp.arange(37, 53)), x[37:53], 1e-5)
    with np.load(directory / "samples" / "samples.npz", allow_pickle=False) as file:
        nfe = file["nfe"]
    assert np.ptp(nfe) > 0 if use in ("adaptive", "flow") else np.all(nfe == {"pc": 10, "ode": 10}[use])


def test_more_samples_keep_the_first_and_a_stop_keeps_what_was_drawn(fresh, monkeypatch, capsys):
    directory, config = fresh
    whole = np.array(run_lib.sample(directory, 40, 0, config))
    shutil.rmtree(directory / "samples")
    first = np.array(run_lib.sample(directory, 5, 0, config))
    ((folder, names),) = files(directory).items()
    stamps = {p: p.stat().st_mtime_ns for p in (directory / "samples" / "shards" / folder).glob("*.npz")}
    assert names == ["0000000-0000008.npz"]  # not a batch of sixteen, but what eight devices can share
    config.sampling.batch_size = 8  # neither does this matter

    real, left = sample.require_finite, [2]

    def stop_in_the_second_batch(x, first, *why):
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)
        real(x, first, *why)

    with monkeypatch.context() as patched:
        patched.setattr(sample, "require_finite", stop_in_the_second_batch)
        assert run_lib.sample(directory, 40, 0, config) is None
    said = capsys.readouterr().out
    assert "8 of 40 samples are there already" in said
    assert "stopped after 24 of 40 samples: the same command resumes there" in said
    assert files(directory)[folder] == ["0000000-0000008.npz", "0000008-0000016.npz", "0000016-0000024.npz"]
    x = run_lib.sample(directory, 40, 0, config)
    np.testing.assert_array_equal(x[:5], first)
    close(x, whole, 1e-5)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    np.testing.assert_array_equal(run_lib.sample(directory, 12, 0, config), x[:12])


def test_other_seeds_steps_and_samplers_are_never_mixed_in(fresh, capsys):
    directory, config = fresh
    first = np.array(run_lib.sample(directory, 8, 0, config))
    for use, num_steps, seed in (("pc", 5, 1), ("pc", 6, 0), ("ode", 5, 0)):
        config.sampling.use, config.sampling.pc.num_steps = use, num_steps
        other = run_lib.sample(directory, 8, seed, config)
        assert "samples of another step, seed, sampler or class: new ones are drawn" in capsys.readouterr().out
        assert not np.any(np.isclose(other, first).all(axis=1))
    assert len(files(directory)) == 4 and all(len(names) == 1 for names in files(directory).values())
    config.sampling.update(use="pc")
    config.sampling.pc.num_steps = 5
    config.sampling.ode.num_steps = 7  # of a sampler that is not used
    np.testing.assert_array_equal(run_lib.sample(directory, 8, 0, config), first)
    assert len(files(directory)) == 4
    config.sampling.ode.num_steps = 5


def test_other_parameters_are_other_samples(fresh):
    """Retrained, they may differ though step and config do not."""
    opened = open_trained(*fresh)
    again = open_trained(*fresh)
    assert sample.shards_of(opened, 0).folder == sample.shards_of(again, 0).folder
    params = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), opened.model.params)
    moved = opened._replace(model=opened.model.replace(params=params))
    assert sample.shards_of(moved, 0).folder != sample.shards_of(opened, 0).folder


def test_batches_belong_to_what_a_batch_norm_makes(fresh):
    directory, config = fresh
    config.sampling.update(use="coupled", batch_size=16)
    whole = np.array(run_lib.sample(directory, 32, 0, config))
    shutil.rmtree(directory / "samples")
    run_lib.sample(directory, 3, 0, config)
    np.testing.assert_array_equal(run_lib.sample(directory, 32, 0, config), whole)
    config.sampling.batch_size = 8
    assert not np.allclose(run_lib.sample(directory, 32, 0, config), whole)
    assert len(files(directory)) == 2


def test_what_is_not_finite_is_refused(fresh):
    """An adaptive sampler gives NaN for a sample that has not arrived; what came before stays."""
    directory, config = fresh
    config.sampling.update(use="adaptive", batch_size=8)
    config.sampling.adaptive.max_steps = 3
    with pytest.raises(
        FloatingPointError, match=r"8 of samples 0 to 7 are not finite, sample 0 the first: .*max_steps"
    ):
        run_lib.sample(directory, 8, 0, config)
    assert not (directory / "samples").exists()
    config.sampling.adaptive.max_steps = 10_000
    config.sampling.batch_size = 0
    with pytest.raises(ConfigError, match=r"config.sampling.batch_size=0: expected at least 1"):
        run_lib.sample(directory, 8, 0, config)


def mean_report(samples, train, test, train_label, test_label):
    return {"mean": float(np.mean(samples)), "count": len(samples)}


@pytest.mark.slow
def test_evaluation_draws_the_same_files_and_tells_the_mean_cost(fresh):
    directory, config = fresh
    config.sampling.use = "adaptive"
    x = run_lib.sample(directory, 5, 3, config)
    del config.eval["features"]
    config.eval.report = bind(mean_report)
    data = from_arrays(np.zeros((64, 2), np.float32))
    report = run_lib.evaluate(directory, 24, 3, config, data)
    with np.load(directory / "samples" / "samples.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["samples"][:5], x)
        assert report["mean"] == float(np.mean(file["samples"])) and report["count"] == 24
        assert report["nfe"] == np.mean(file["nfe"]) and np.ptp(file["nfe"]) > 0
    assert files(directory).popitem()[1] == ["0000000-0000008.npz", "0000008-0000024.npz"]
    assert f"NFE {report['nfe']:.4g} and " in (directory / "eval" / "report.md").read_text()
    del config.eval["report"]


def frames(path):
    with Image.open(path) as picture:
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]


def test_the_animation_of_images_ends_in_the_samples(tmp_path):
    """From noise of the data's contrast, whatever its level: of N(0, 1), 32 % lies beyond ±1."""
    scale, process = spec(Scale, low=-1.0, high=1.0), spec(VE, sigma_max=20.0)
    trained(tmp_path / "run", (8, 8, 1), transform=scale, sde=process)
    x = run_lib.sample(tmp_path / "run", 70, animate=True)
    seen = frames(tmp_path / "run" / "samples" / "animation.gif")
    assert len(seen) == 6  # of five steps
    assert seen[-1].shape == (264, 264)
    np.testing.assert_array_equal(seen[-1][:-1, :-1], pictures.image_grid(x[:64], scale=4)[..., 0])
    inside = seen[0].reshape(8, 33, 8, 33)[:, :32, :, :32] if seen[0].shape == (264, 264) else seen[0]
    assert abs(np.mean((inside == 0) | (inside == 255)) - 0.32) < 0.05


def test_what_cannot_be_animated_is_refused_before_drawing(fresh):
    directory, config = fresh
    opened = open_trained(directory, config)
    config = config.copy_and_resolve_references()
    config.shape = (3,)
    with pytest.raises(ConfigError, match=r"config.shape is \(3,\): only images and vectors of 1 or 2 coo"):
        sample.require_animation(opened._replace(experiment=opened.experiment._replace(config=config)))
    config.update(shape=(2,))
    config.sampling.use = "flow"
    with pytest.raises(ConfigError, match=r"config.sampling.flow: ProbabilityFlowODE has different times for"):
        run_lib.sample(directory, 8, 0, config, animate=True)
    assert not (directory / "samples").exists()


@pytest.mark.slow
def test_points_in_the_plane_are_animated(fresh, monkeypatch):
    """In sixty frames of seventy-one times; the last but one is nearly there."""
    directory, config = fresh
    config.sampling.pc.num_steps = 70
    real, drawn = pictures.point_frames, []
    monkeypatch.setattr(pictures, "point_frames", lambda t, x: drawn.append(x) or real(t, x))
    x = run_lib.sample(directory, 50, 4, config, animate=True)
    np.testing.assert_allclose(drawn[0][-1], x)
    assert np.abs(drawn[0][-2] - x).mean() < 0.2 * np.abs(drawn[0][-2] - x[::-1]).mean()
    seen = frames(directory / "samples" / "animation.gif")
    assert len(seen) == 60 and not np.array_equal(seen[0], seen[-1])


def test_a_loaded_model_gives_images_as_the_mode_does(tmp_path, caplog):
    """uint8, equal to those of the file; and a word that a model stays float32 where float64 is switched on."""
    config = trained(tmp_path, shape=(4, 6, 1), transform=spec(Scale, low=0.0, high=255.0))
    config.sampling.use = "ode"
    written = np.asarray(run_lib.sample(tmp_path, 5, 3, config, devices=jax.devices()[:1]))
    caplog.clear()
    model = run_lib.load(tmp_path, config)
    assert ["jax_enable_x64 is on" in record.getMessage() for record in caplog.records] == [True]
    found = model.sample(jax.random.key(3), 5)
    assert found.dtype == written.dtype == np.uint8 and found.shape == (5, 4, 6, 1)
    np.testing.assert_array_equal(found, written)
    unrounded = model.sample(jax.random.key(3), 5, rounded=False)
    np.testing.assert_array_equal(np.rint(unrounded.clip(0, 255)), written)
    with jax.enable_x64(False):
        caplog.clear()
        run_lib.load(tmp_path, config)
        assert not caplog.records


@pytest.mark.parametrize(
    ("shape", "smallest"),
    [((2,), 500), ((4, 6, 2), 100), *(pytest.param(shape, 500, marks=pytest.mark.slow) for shape in ((30, 1), (5,)))],
)
def test_samples_that_are_no_images_have_a_picture(tmp_path, shape, smallest):
    config = trained(tmp_path, shape)
    run_lib.sample(tmp_path, 8, 0, config, devices=jax.devices()[:1])
    with Image.open(tmp_path / "samples" / "samples.png") as picture:
        assert picture.width >= smallest and np.std(np.asarray(picture.convert("L"))) > 5
