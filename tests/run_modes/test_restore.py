"""--mode=restore: answers are exact where the score is; answer (i, j) is a function of (seed, i, j)."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import run_lib
from config_lib.spec import ConfigError, spec
from data_lib import Identity, Scale, from_arrays
from models import MLP
from run_modes import measurements, restore
from run_modes.measurements import read_mask, unique_names
from sde_lib import VP, PlainScore, PowerGrid, Sampler, ScaledTime, as_is
from sde_lib.posterior import MMPS, Blur, PiGDM, Replacement
from sde_lib.solvers import Ancestral
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

SHAPE, STD = (4, 4, 1), 0.25


class ExactScore:
    """The score of images with independent pixels N(0, STD²) in model space, under VP."""

    def init(self, key, x, c_noise, cond=None):
        return {"unused": jax.numpy.zeros(1)}

    def __call__(self, params, x, c_noise, cond=None, key=None, train=False):
        sde = VP()
        variance = sde.alpha(c_noise) ** 2 * STD**2 + sde.sigma(c_noise) ** 2
        return -x / variance.reshape(-1, 1, 1, 1) + 0 * params["unused"][0]


def exact_score() -> ExactScore:
    return ExactScore()


def trained(directory, **changes):
    """A work directory of an exact score for images of 0 … 255, whose pixels are N(127.5, (127.5 STD)²)."""
    config = get_config()
    config.shape, config.transform = SHAPE, spec(Scale)
    config.network = spec(exact_score)
    config.parameterization = spec(PlainScore, c_noise=ScaledTime())
    config.training.update(num_steps=1, batch_size=8, log_every=0, eval_every=0, sample_every=0)
    config.sampling.use = "exact"
    config.sampling.exact = spec(Sampler, solver=Ancestral(), grid=PowerGrid(), num_steps=300, denoise=as_is)
    config.sampling.batch_size = 24
    for name, value in changes.items():
        config[name] = value
    del config.eval["report"]
    x = np.random.default_rng(0).normal(127.5, 127.5 * STD, (64, *SHAPE)).clip(0, 255).astype(np.uint8)
    run_lib.train(config, directory, from_arrays(x), devices=jax.devices()[:1])
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    with jax.numpy_dtype_promotion("standard"):
        trained(directory)
    return directory


@pytest.fixture
def fresh(run):
    shutil.rmtree(run / "restored", ignore_errors=True)
    return run


def one_device(*args, **kwargs):
    return restore.restore(*args, devices=jax.devices()[:1], **kwargs)


TRUTH = np.random.default_rng(1).uniform(80, 175, (3, *SHAPE)).astype(np.float32)


def test_inpainting_has_the_posterior_of_independent_pixels(fresh, capsys):
    """Known pixels are y shrunk by 1/(1 + σ_y²/s²) with variance s² σ_y²/(s² + σ_y²); unknown ones have the prior's."""
    mask = np.zeros((4, 4))
    mask[:2] = 1
    noise_std, s = 15.0, 127.5 * STD
    x = one_device(fresh, "inpaint", images=TRUTH, mask=mask, noise_std=noise_std, num_samples=150, seed=3)
    assert x.shape == (3, 150, *SHAPE) and x.dtype == np.uint8
    gain = s**2 / (s**2 + noise_std**2)
    mean, std = 127.5 + gain * (TRUTH[:, :2] - 127.5), np.sqrt(gain) * noise_std
    found = x[:, :, :2].astype(float)
    np.testing.assert_allclose(found.mean(1), mean, atol=5 * std / np.sqrt(150))
    np.testing.assert_allclose(found.std(1).mean(), std, rtol=0.05)
    np.testing.assert_allclose(x[:, :, 2:].astype(float).std(), s, rtol=0.05)
    assert "50.0% of the values are known" in capsys.readouterr().out
    report = json.loads((fresh / "restored" / "inpaint" / "report.json").read_text())
    residual = np.sqrt(np.mean((found - TRUTH[:, None, :2]) ** 2))
    np.testing.assert_allclose(report["mean"]["misfit"], residual, rtol=1e-3)
    assert "psnr" not in report["mean"]
    picture = np.asarray(Image.open(fresh / "restored" / "inpaint" / "restored.png"))
    assert picture.ndim == 3 and picture.std() > 10


def test_an_answer_is_a_function_of_seed_and_its_numbers(fresh):
    """Neither the batch size nor the other measurements change it; a call resumes; other inputs are drawn anew."""
    options = dict(truth=TRUTH, noise_std=5.0, num_samples=4, seed=1)
    all_three = np.array(one_device(fresh, "upscale:2", **options))
    first = one_device(fresh, "upscale:2", **{**options, "truth": TRUTH[:1]}, out=fresh / "first")
    np.testing.assert_allclose(all_three[:1].astype(int), first.astype(int), atol=1)
    shards = list((fresh / "restored" / "shards").glob("*/*.npz"))
    assert len(shards) == 2
    again = one_device(fresh, "upscale:2", **options)
    np.testing.assert_array_equal(again, all_three)
    assert len(list((fresh / "restored" / "shards").glob("*/*.npz"))) == 2
    equal = np.full((2, 2, 2, 1), 120.0)  # measurements that are the same have answers of their own
    twice = one_device(fresh, "upscale:2", images=equal, noise_std=5.0, num_samples=4, seed=1, out=fresh / "twice")
    assert np.any(twice[0] != twice[1])
    other = one_device(fresh, "upscale:2", **{**options, "seed": 2})
    assert np.any(other != all_three)
    assert len(list((fresh / "restored" / "shards").glob("*/*.npz"))) == 4
    assert sorted(p.name for p in (fresh / "restored" / "upscale_2").glob("00000_*.png")) == [
        f"00000_{j}.png" for j in range(4)
    ]
    np.testing.assert_array_equal(
        np.asarray(Image.open(fresh / "restored" / "upscale_2" / "00002_3.png")), other[2, 3, ..., 0]
    )


def test_files_of_images(fresh, tmp_path):
    """A folder of small images is enlarged; a box mean of the answers is the file's value within its noise."""
    small = np.random.default_rng(2).integers(90, 165, (2, 2, 2), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for name, image in zip(("a", "b"), small, strict=True):
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    x = one_device(fresh, "upscale:2", images=tmp_path / "in", noise_std=1.0, num_samples=50, out=tmp_path / "out")
    boxes = x.astype(float).reshape(2, 50, 2, 2, 2, 2).mean((3, 5))
    np.testing.assert_allclose(boxes.mean(1), small, atol=2.0)
    assert (tmp_path / "out" / "b_49.png").is_file() and not (fresh / "restored" / "upscale_2").exists()


def test_the_truth_is_compared(fresh):
    """PSNR of the mean exceeds that of one answer, by the closed form of their errors."""
    one_device(fresh, "deblur:1", truth=TRUTH, noise_std=2.0, num_samples=8)
    mean = json.loads((fresh / "restored" / "deblur_1" / "report.json").read_text())["mean"]
    assert mean["psnr"] > mean["psnr_of_one"] + 1 and 0 < mean["ssim"] < 1
    assert mean["spread"] > 0 and mean["misfit"] < 3.0


def test_other_methods_and_operators(tmp_path):
    config = trained(tmp_path / "run")
    config.restore.method = spec(Replacement)
    mask = np.eye(4)
    x = one_device(tmp_path / "run", "inpaint", images=TRUTH[:1], mask=mask, noise_std=0, num_samples=2, config=config)
    np.testing.assert_allclose(x[0, 0][mask > 0], TRUTH[0][mask > 0], atol=0.6)
    config.restore.method = spec(PiGDM, data_std=STD)
    config.restore.operator = spec(Blur, kernel=((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)))
    x = one_device(tmp_path / "run", "operator", truth=TRUTH[:1], noise_std=0.5, num_samples=1, config=config)
    np.testing.assert_allclose(x[0, 0, :, :3], TRUTH[0, :, :3], atol=4)  # y(i, j) = x(i, j − 1)
    config.restore.method = spec(MMPS, solver="other")
    with pytest.raises(ConfigError, match=r"config.restore.method: MMPS: expected the solver"):
        one_device(tmp_path / "run", "upscale:2", truth=TRUTH[:1], noise_std=0.5, config=config)


BAD = {
    "no data": (dict(task="upscale:2", noise_std=1.0), "--images=PATH"),
    "no noise": (dict(task="upscale:2", truth=TRUTH), "--noise_std is required"),
    "no mask": (dict(task="inpaint", truth=TRUTH, noise_std=1.0), "--mask is required for --task=inpaint"),
    "a mask": (dict(task="upscale:2", truth=TRUTH, noise_std=1.0, mask=np.ones((4, 4))), "--mask is not used by"),
    "another size": (dict(task="inpaint", truth=TRUTH, noise_std=1.0, mask=np.ones((5, 4))), r"of shape \(4, 4\)"),
    "nothing known": (dict(task="inpaint", truth=TRUTH, noise_std=1.0, mask=np.zeros((4, 4))), "no value is known"),
    "masks": (dict(task="inpaint", truth=TRUTH, noise_std=1.0, mask=np.ones((2, 4, 4, 1))), "2 masks for 3"),
    "channels": (dict(task="colorize", truth=TRUTH, noise_std=1.0), "ColorMix: expected 3 channels"),
    "another task": (dict(task="sharpen", truth=TRUTH, noise_std=1.0), "expected one of inpaint, upscale"),
    "factor": (dict(task="upscale:x", truth=TRUTH, noise_std=1.0), "expected a positive size, such as upscale:2"),
    "divisible": (dict(task="upscale:3", truth=TRUTH, noise_std=1.0), "divisible by 3"),
    "shape": (dict(task="upscale:2", images=TRUTH, noise_std=1.0), r"expected an array of shape \[N, 2, 2, 1\]"),
    "numbers": (dict(task="upscale:2", truth=TRUTH * np.nan, noise_std=1.0), "expected finite numbers"),
    "operator": (dict(task="operator", truth=TRUTH, noise_std=1.0), "set config.restore.operator"),
    "noise": (dict(task="upscale:2", truth=TRUTH, noise_std=-1.0), "--noise_std=-1.0: expected at least 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_line(run, name):
    options, message = BAD[name]
    files = lambda: sorted((run / "restored").rglob("*"))  # noqa: E731
    before = files()
    with pytest.raises(ConfigError, match=message) as found:
        one_device(run, **options)
    assert "\n" not in str(found.value) and files() == before


def test_files_that_do_not_fit(run, tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8) + np.array([0, 9, 0], np.uint8)).save(tmp_path / "color.png")
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no image")
    options = dict(task="inpaint", mask=np.eye(4), noise_std=1.0)
    for file, message in (
        ("color.png", "expected gray, 1 channel"), ("large.png", "expected 4 × 4 pixels"), ("text.png", "not an image"),
        ("none.png", "no folder"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            one_device(run, images=tmp_path / file, **options)


def test_masks_and_names(tmp_path, capsys):
    """White is known; a folder has one mask for each measurement; equal names get numbers."""
    image = np.array([[255, 0], [0, 130]], np.uint8)
    Image.fromarray(image).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (2, 2, 3))[..., 0], [[1, 0], [0, 1]])
    assert read_mask(tmp_path, (2, 2, 3)).shape == (1, 2, 2, 1)
    np.save(tmp_path / "s.npy", np.arange(5))
    np.testing.assert_array_equal(read_mask(tmp_path / "s.npy", (5, 1))[:, 0], [0, 1, 1, 1, 1])
    assert "white" in capsys.readouterr().out
    names = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "y.png"]
    assert unique_names(names) == ["x_00000", "x_00001", "y"]
    assert set(measurements.TASKS) == {"inpaint", "upscale", "colorize", "deblur", "ct", "mri", "decimate"}


def test_a_conditional_model_requires_its_class(tmp_path):
    """--config.sampling.label, or a row of cond for each measurement; answers are then those of the class."""
    config = get_config()
    config.shape, config.transform = (2,), spec(Identity)
    config.network = spec(MLP, features=8, num_layers=1, num_classes=2)
    config.training.update(num_steps=20, ema=0.0, batch_size=8, log_every=0, eval_every=0, sample_every=0)
    del config.eval["report"]
    x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    run_lib.train(config, tmp_path, from_arrays(x, label=np.arange(32) % 2), devices=jax.devices()[:1])
    options = dict(task="inpaint", images=np.zeros((3, 2)), mask=np.array([1, 0]), noise_std=0.1, num_samples=2)
    with pytest.raises(ConfigError, match=r"conditional: set --config.sampling.label=0 … 1, or --cond=FILE"):
        one_device(tmp_path, **options)
    with pytest.raises(ConfigError, match="--cond has 2 rows for 3 measurements"):
        one_device(tmp_path, **options, cond=np.array([0, 1]))
    mixed = np.array(one_device(tmp_path, **options, cond=np.array([0, 1, 1])))
    config.sampling.label = 1
    ones = one_device(tmp_path, **options, config=config)
    np.testing.assert_allclose(mixed[1:], ones[1:], rtol=1e-5)
    assert np.abs(mixed[0] - ones[0]).max() > 1e-4
