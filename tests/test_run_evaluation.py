"""Statistics of data, metrics over seeds and checkpoints, the loss against t: through run_lib and the command line."""

import json

import jax
import numpy as np
import pytest

import run_evaluation
import run_lib
from configs.spec import ConfigError, bind, spec
from data_lib import digits
from eval_lib import ClassifierFeatures, InceptionFeatures, RawFeatures, fid, kid
from eval_lib.statistics import load, save
from run_sampling import open_trained
from tests.test_run_lib import usual_promotion as usual_promotion
from tests.tiny_config import get_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Forty steps of a small network on digits, with checkpoints 20, 30 and 40."""
    directory, config = tmp_path_factory.mktemp("run") / "run", get_config()
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(config, directory, devices=jax.devices()[:1])
    return directory


def test_the_reference_against_itself_is_zero(tmp_path):
    """Every example once, through the transform's pixels; held-out digits are near, and nearer than noise."""
    config, file = get_config(), tmp_path / "stats.npz"
    stats = run_lib.stats(config, file)
    data = digits()
    assert stats.count == len(data.train) == 1297 and stats.mean.shape == (64,)
    back = load(file)
    assert back.about["split"] == "train" and back.about["N"] == "1297" and back.protocol["shape"] == "8x8x1"
    assert back.protocol["quantisation"].startswith("uint8")
    assert abs(fid(stats, back)["FID"]) < 1e-6 * np.trace(stats.cov)
    features = ClassifierFeatures().fitted(np.rint(data.train.x / 16 * 255), data.train.label)
    np.testing.assert_allclose(stats.mean, features(np.rint(data.train.x / 16 * 255)).features.mean(0), rtol=1e-6)
    config.eval.reference_split = "heldout"
    heldout = run_lib.stats(config, tmp_path / "heldout.npz")
    assert heldout.count == 500 and 0 < fid(heldout, stats)["FID"] < 0.1 * np.trace(stats.cov)


def test_metrics_over_seeds_and_checkpoints(trained, monkeypatch):
    config = get_config()
    config.eval.update(seeds=3, first_step=30, last_step=40)
    report = run_lib.evaluate(trained, 100, 5, config, folder="judged")
    folder = trained / "judged"
    for step in (30, 40):
        assert json.loads((folder / f"report_{step}.json").read_text())["step"] == step
    assert (
        report
        == json.loads((folder / "report.json").read_text())
        == json.loads((folder / "report_40.json").read_text())
    )
    assert not (trained / "eval").exists()
    found = report["metrics"]
    assert set(found["figures"]) == {"FID", "KID", "KID error", "IS", "precision", "recall", "density", "coverage"}
    each = found["figures"]["FID"]["each"]
    assert len(set(each)) == 3 and found["figures"]["FID"]["mean"] == pytest.approx(np.mean(each))
    assert found["figures"]["FID"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert found["seconds"] > 0 and found["reference"]["split"] == "train"
    text = (folder / "report_40.md").read_text()
    assert "| FID |" in text and f"- weights: {found['protocol']['weights']}" in text and report["code"] in text
    assert all((folder / name).is_file() for name in ("neighbours.png", "loss_of_t.png", "samples.png"))

    # seed 5 + 1 alone gives the second of the three, from the samples that are there
    def drawn_again(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr("io_lib.shards.Shards.write", drawn_again)
    config.eval.update(seeds=1, first_step=0, last_step=0)
    one = run_lib.evaluate(trained, 100, 6, config)["metrics"]
    assert one["figures"]["FID"] == {"mean": each[1], "sd": None, "each": [each[1]]} and one["seconds"] is None
    config.eval.first_step = 41
    with pytest.raises(ConfigError, match=r"no checkpoint from step 41 to the newest: .* holds \[20, 30, 40\]"):
        run_lib.evaluate(trained, 100, 6, config)


def test_the_loss_of_t_is_the_loss(trained):
    """Its mean over evenly spaced t is the loss under the uniform law, within the error of 500 examples."""
    from sde_lib import UniformTime

    config = get_config()
    with config.unlocked():
        config.loss.sample_time = spec(UniformTime)
    one = open_trained(trained, get_config(), jax.devices()[:1])
    one = one._replace(parts=run_lib.build_parts(config))
    curve = run_evaluation.loss_curve(one, digits(), times=64)
    assert curve["t"][0] == pytest.approx(one.parts.sde.t_min) and curve["t"][-1] == pytest.approx(1)
    run = run_lib.Run(config, one.parts, one.layout, digits(), trained, None, None)
    whole = np.trapezoid(curve["loss"], curve["t"]) / (curve["t"][-1] - curve["t"][0])
    np.testing.assert_allclose(whole, run.eval_loss(one.model.params), rtol=0.15)
    assert np.all(np.array(curve["error"]) > 0) and np.all(np.array(curve["error"]) < 0.2 * np.max(curve["loss"]))


def test_unlike_protocols_are_refused(trained, tmp_path):
    config = get_config()
    config.eval.features = spec(RawFeatures)
    run_lib.stats(config, tmp_path / "raw.npz")
    config = get_config()
    config.eval.reference = str(tmp_path / "raw.npz")
    with pytest.raises(
        ConfigError, match=r"not comparable, for features, weights differ: .*against.*the data themselves"
    ):
        run_lib.evaluate(trained, 100, 0, config)
    config.eval.features = spec(RawFeatures)
    config.eval.metrics = {"kid": bind(kid)}
    assert "KID" in run_lib.evaluate(trained, 100, 0, config)["metrics"]["figures"]
    moments = load(tmp_path / "raw.npz")
    save(tmp_path / "raw.npz", moments.__class__(moments.count, moments.mean, moments.cov, moments.protocol, {}))
    with pytest.raises(ConfigError, match=r"config.eval.metrics.kid: this metric needs the features"):
        run_lib.evaluate(trained, 100, 0, config)


def test_what_is_missing_is_said_in_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = get_config()
    config.eval.features = spec(InceptionFeatures)
    with pytest.raises(ConfigError, match=r"config.eval: the Inception weights are not at .*`python -m eval_lib`"):
        run_lib.stats(config, tmp_path / "s.npz")
    assert not (tmp_path / "s.npz").exists()
    config = get_config()
    config.eval.reference_split = "test"
    with pytest.raises(ConfigError, match=r"reference_split is 'test': expected one of train, heldout"):
        run_lib.stats(config, tmp_path / "s.npz")
    del config.eval["features"]
    with pytest.raises(ConfigError, match=r"config.eval.features is missing"):
        run_lib.stats(config, tmp_path / "s.npz")
