"""Statistics of data, metrics over seeds and checkpoints, the loss against t: through run_lib and the command line."""

import json
import shutil

import jax
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, bind, spec
from configs import points
from data_lib import Dataset, digits, from_arrays
from eval_lib import (
    ClassifierFeatures,
    DINOv2Features,
    Features,
    InceptionFeatures,
    RawFeatures,
    Statistics,
    fid,
    kid,
    ks_statistics,
    marginals,
    moments,
    sliced_wasserstein,
)
from eval_lib.statistics import load, save
from io_lib.shards import Shards
from run_modes import sample_metrics
from run_modes.eval_loss import EvalLoss, loss_curve
from run_modes.experiment import make_experiment
from run_modes.trained import open_trained
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Forty steps of a small network on digits, with checkpoints 20, 30 and 40."""
    directory, config = tmp_path_factory.mktemp("run") / "run", get_config()
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(config, directory, devices=jax.devices()[:1])
    return directory


def test_the_reference_against_itself_is_zero(tmp_path):
    """Every example once, through the transform's pixels; test digits are near, and nearer than noise."""
    config, file = get_config(), tmp_path / "stats.npz"
    stats = run_lib.stats(config, file)
    data = digits()
    assert stats.count == len(data.train) == 1297 and stats.mean.shape == (64,)
    back = load(file)
    assert back.about["split"] == "train" and back.about["N"] == "1297" and back.protocol["shape"] == "8x8x1"
    assert back.protocol["quantization"].startswith("uint8")
    assert abs(fid(stats, back)["FID"]) < 1e-6 * np.trace(stats.cov)
    features = ClassifierFeatures().fitted(np.rint(data.train.x / 16 * 255), data.train.label)
    np.testing.assert_allclose(stats.mean, features(np.rint(data.train.x / 16 * 255)).features.mean(0), rtol=1e-6)
    config.eval.reference_split = "test"
    test = run_lib.stats(config, tmp_path / "test.npz")
    assert test.count == 500 and 0 < fid(test, stats)["FID"] < 0.1 * np.trace(stats.cov)


def test_metrics_over_seeds_and_checkpoints(trained, monkeypatch):
    config = get_config()
    config.eval.update(seeds=2, first_step=30, last_step=40)
    config.eval.metrics.kid.subsets = 5
    report = run_lib.evaluate(trained, 100, 5, config, folder="evaluated")
    folder = trained / "evaluated"
    for step in (30, 40):
        assert json.loads((folder / f"report_{step}.json").read_text())["step"] == step
    assert (
        report
        == json.loads((folder / "report.json").read_text())
        == json.loads((folder / "report_40.json").read_text())
    )
    assert not (trained / "eval").exists()
    found = report["metrics"]
    assert set(found["figures"]) == {
        "FID",
        "KID",
        "KID error",
        "IS",
        "IS sd of splits",
        "precision",
        "recall",
        "density",
        "coverage",
    }
    each = found["figures"]["FID"]["each"]
    assert len(set(each)) == 2 and found["figures"]["FID"]["mean"] == pytest.approx(np.mean(each))
    assert found["figures"]["FID"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert found["reference"]["split"] == "train"
    assert report["seconds"] > 0 and report["nfe"] == 8 and report["samples"] == 100
    ratios = report["over_seeds"]["frechet.ratio"]
    assert ratios["each"][0] == report["frechet"]["ratio"] and len(set(ratios["each"])) == 2
    assert ratios["mean"] == pytest.approx(np.mean(ratios["each"]))
    text = (folder / "report_40.md").read_text()
    distance = "| Fréchet distance (classifier features) |"
    for part in (distance, "| frechet.ratio |", f"- weights: {found['protocol']['weights']}", report["code"]):
        assert part in text
    assert "FID" not in text and found["names"]["FID"] == "Fréchet distance (classifier features)"
    assert "floors" not in found and "floor" not in text
    assert all((folder / name).is_file() for name in ("neighbors.png", "loss_of_t.png", "samples.png"))

    # seed 5 + 1 alone gives the second of the two, from the samples that are there
    def drawn_again(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr("io_lib.shards.Shards.write", drawn_again)
    config.eval.update(seeds=1, first_step=0, last_step=0)
    one = run_lib.evaluate(trained, 100, 6, config)
    assert one["metrics"]["figures"]["FID"] == {"mean": each[1], "sd": None, "each": [each[1]]}
    assert one["frechet"]["ratio"] == ratios["each"][1] and one["seconds"] > 0
    config.eval.first_step = 41
    with pytest.raises(ConfigError, match=r"no checkpoint from step 41 to the newest: .* holds \[20, 30, 40\]"):
        run_lib.evaluate(trained, 100, 6, config)


def test_points_are_compared_with_as_many_real_ones(tmp_path):
    """Two groups of 40 samples, for 40 test examples: figures and floors are those of the metrics, by hand."""
    config, one = points.get_config(), jax.devices()[:1]
    config.network.update(features=8, num_layers=1)
    config.training.update(batch_size=16, num_steps=4, log_every=0, eval_every=0, checkpoint_every=4)
    config.sampling.ode.num_steps, config.eval.seeds = 4, 2
    x = (np.random.default_rng(0).normal(size=(400, 2)) * [1e-3, 1e3]).astype(np.float32)
    data = from_arrays(x)
    run_lib.train(config, tmp_path, data, devices=one)
    report = run_lib.evaluate(tmp_path, 100, 3, dataset=data, devices=one)
    found, text = report["metrics"], (tmp_path / "eval" / "report.md").read_text()
    assert found["reference"]["data"] == "arrays train" and "names" in found and not found["names"]
    draw = np.random.default_rng(0)
    test, train = (np.sort(draw.choice(n, 40, replace=False)) for n in (40, 360))
    real = Statistics(360, *moments(data.train.x), {}, {}, data.train.x[train])
    statistics = lambda x: Statistics(len(x), *moments(x), {}, {}, x)  # noqa: E731
    floors = found["floors"]
    assert (floors["rows"], floors["split"]) == (40, "test") and floors["figures"].keys() == found["figures"].keys()
    with np.load(tmp_path / "samples" / "samples.npz") as file:
        samples = file["samples"]
    assert len(samples) == 100
    for metric in (sliced_wasserstein, marginals):
        for key, value in metric(statistics(data.test.x[test]), real).items():
            assert floors["figures"][key] == pytest.approx(value, rel=1e-6, abs=1e-6)
            groups = [metric(statistics(samples[i : i + 40]), real)[key] for i in (0, 40)]
            assert found["figures"][key]["each"][0] == pytest.approx(np.mean(groups), rel=1e-6, abs=1e-6)
    for key in ("sliced Wasserstein", "energy distance", "KS max"):
        assert found["figures"][key]["mean"] > 1.5 * floors["figures"][key]
        assert f"| {key} | {found['figures'][key]['mean']:.4g} | {found['figures'][key]['sd']:.2g} |" in text
    assert "| figure | mean | sd over 2 seeds | floor: 40 test examples |" in text and "FID" not in text
    ks = f"| 0 | {found['figures']['KS [0]']['mean']:.2g} ({floors['figures']['KS [0]']:.2g}) |"
    assert ks in text and "| KS [0] |" not in text and (tmp_path / "eval" / "marginals.png").is_file()


def test_many_coordinates_have_a_picture_and_no_table(tmp_path):
    """The picture has those whose marginals differ most; one test example is too few for a floor."""
    config, one = points.get_config(), jax.devices()[:1]
    config.shape = (3, 8)
    config.network.update(features=8, num_layers=1)
    config.training.update(batch_size=16, num_steps=2, log_every=0, eval_every=0, checkpoint_every=2)
    config.sampling.ode.num_steps = 2
    x = np.random.default_rng(0).normal(size=(81, 3, 8)).astype(np.float32)
    data, drawn = from_arrays(x, test=1), {}
    run_lib.train(config, tmp_path, data, devices=one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "io_lib.pictures.plot_marginals_and_pairs",
            lambda file, samples, real, names: drawn.update(samples=samples, real=real, names=names),
        )
        # Fewer samples than coordinates raise no warning, since no covariance is computed.
        report = run_lib.evaluate(tmp_path, 20, 0, dataset=data, devices=one)
    assert report["metrics"]["figures"].keys() >= {"C2ST", "KS max"} and "floors" not in report["metrics"]
    assert not any("[" in key for key in report["metrics"]["figures"])
    assert drawn["samples"].shape == (20, 5) and drawn["real"].shape == (80, 5)
    ks = ks_statistics(drawn["samples"], drawn["real"])
    assert ks.max() == pytest.approx(report["metrics"]["figures"]["KS max"]["mean"]) and ks.min() > 0
    for i, name in enumerate(drawn["names"]):
        column = data.train.x.reshape(80, 24)[:, int(name[2:-1])]
        np.testing.assert_array_equal(np.sort(drawn["real"][:, i]), np.sort(column))


def test_the_loss_of_t_is_the_loss(trained):
    """Its mean over evenly spaced t is the loss under the uniform law, within the error of 500 examples."""
    from sde_lib import UniformTime

    config = get_config()
    with config.unlocked():
        config.time_distribution = spec(UniformTime)
    one = open_trained(trained, get_config(), jax.devices()[:1])
    experiment = make_experiment(config, jax.devices()[:1])
    curve = loss_curve(experiment, one.params, one.step, digits(), times=64)
    assert curve["t"][0] == pytest.approx(experiment.sde.t_min) and curve["t"][-1] == pytest.approx(1)
    whole = np.trapezoid(curve["loss"], curve["t"]) / (curve["t"][-1] - curve["t"][0])
    np.testing.assert_allclose(whole, EvalLoss(experiment, digits())(one.params, one.step), rtol=0.15)
    assert np.all(np.array(curve["error"]) > 0) and np.all(np.array(curve["error"]) < 0.2 * np.max(curve["loss"]))


def test_unlike_protocols_are_refused(trained, tmp_path, monkeypatch):
    config = get_config()
    config.eval.features = spec(RawFeatures)
    run_lib.stats(config, tmp_path / "raw.npz")
    config = get_config()
    config.eval.reference = str(tmp_path / "raw.npz")
    with pytest.raises(
        ConfigError, match=r"not comparable, since features, weights differ: .*against.*the data themselves"
    ):
        run_lib.evaluate(trained, 100, 0, config)
    config.eval.features = spec(RawFeatures)
    config.eval.metrics = {"kid": bind(kid, subsets=3)}
    assert "KID" in run_lib.evaluate(trained, 100, 0, config)["metrics"]["figures"]
    monkeypatch.setattr(sample_metrics, "samples_of", None)  # not reached
    moments = load(tmp_path / "raw.npz")
    save(tmp_path / "raw.npz", moments.__class__(moments.count, moments.mean, moments.cov, moments.protocol, {}))
    with pytest.raises(ConfigError, match=r"config.eval.metrics.kid: this metric requires the features"):
        run_lib.evaluate(trained, 100, 0, config)


class Unlabeled:
    """A source without its labels."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return {"x": self.source[i]["x"]}


def unlabeled():
    return Dataset(*map(Unlabeled, digits()))


@pytest.fixture
def nothing_computed(monkeypatch):
    """No loss, no sample, no feature."""

    def fail(*_, **__):
        raise AssertionError("computed before the config was known to be good")

    for name in (
        "run_modes.evaluate.EvalLoss",
        "run_modes.sample_metrics.samples_of",
        "run_modes.features.statistics_of",
    ):
        monkeypatch.setattr(name, fail)


def test_what_is_missing_is_said_in_one_line_and_first(trained, tmp_path, monkeypatch, nothing_computed):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    evaluate = lambda data=None: run_lib.evaluate(trained, 100, 0, config, data)  # noqa: E731
    stats = lambda data=None: run_lib.stats(config, tmp_path / "s.npz", data)  # noqa: E731
    config = get_config()
    config.eval.features = spec(InceptionFeatures)
    for run in (stats, evaluate):
        with pytest.raises(ConfigError, match=r"config.eval: the Inception weights are not at .*`python -m eval_lib`"):
            run()
    config.eval.features = spec(DINOv2Features, path="none.pth")
    with pytest.raises(ConfigError, match=r"config.eval: the DINOv2 weights are not at none.pth: download a backbone"):
        evaluate()
    config = get_config()
    for run in (stats, evaluate):
        with pytest.raises(ConfigError, match=r"ClassifierFeatures: the data have no labels to train .*RawFeatures"):
            run(unlabeled())
    config.eval.features = spec(RawFeatures)
    with pytest.raises(ConfigError, match=r"config.eval.report: the data have no label, which the report requires"):
        evaluate(unlabeled())
    config.eval.keep_features = False
    with pytest.raises(ConfigError, match=r"config.eval.metrics.\w+: this metric requires features, but config.eval.k"):
        evaluate(unlabeled())
    config.eval.keep_features, config.eval.reference_split = True, "validation"
    for run in (stats, evaluate):
        with pytest.raises(ConfigError, match=r"reference_split is 'validation': expected one of train, test"):
            run()
    with pytest.raises(ConfigError, match=r"--out=.*/none/s.npz: there is no folder .*/none"):
        run_lib.stats(config, tmp_path / "none" / "s.npz")
    config.eval.reference = str(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match=r"config.eval: .*none.npz"):
        evaluate()
    del config.eval["features"]
    with pytest.raises(ConfigError, match=r"config.eval.features is missing"):
        stats()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_is_done_is_not_done_again(trained, tmp_path, monkeypatch):
    """Evaluation ends in the middle of the features, five times: each block goes through the network once, no sample
    is drawn twice, and the report is that of an evaluation that was not disturbed."""
    calls, left = [], [2]

    def features(images):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        calls.append(images.tobytes())
        return Features(np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=1))

    features.protocol = {"features": "mean and deviation"}
    config = get_config()
    config.eval.seeds = 2
    config.eval.metrics = {"fid": bind(fid), "kid": bind(kid, subsets=3)}
    del config.eval["report"]
    monkeypatch.setattr("run_modes.features.ready", lambda *_: features)
    monkeypatch.setattr("run_modes.features.BLOCK", 200)
    shards, drawn = Shards.write, []
    monkeypatch.setattr(Shards, "write", lambda self, first, *rest: (drawn.append((self.folder, first)),
                                                                     shards(self, first, *rest)))  # fmt: skip
    report = None
    for _ in range(6):
        try:
            report = run_lib.evaluate(trained, 450, 20, config, folder="cut")
            break
        except KeyboardInterrupt:
            left[0] = 3
    assert report is not None and len(calls) == len(set(calls)) == 7 + 3 + 3  # of 1,297 and twice 450 images
    assert len(drawn) == len(set(drawn))
    left[0] = 99
    shutil.rmtree(trained / "samples")
    whole = run_lib.evaluate(trained, 450, 20, config, folder="whole")
    assert len(calls) == 26
    report.pop("seconds"), whole.pop("seconds")
    assert report == whole

    # a damaged file counts as not there, another protocol has files of its own
    (folder,) = (trained / "cut" / "features").iterdir()
    next(folder.glob("*.npz")).write_bytes(b"half")
    features.protocol = {"features": "mean and deviation"}
    run_lib.evaluate(trained, 450, 20, config, folder="cut")
    assert len(calls) == 27
    features.protocol = {"features": "others"}
    run_lib.evaluate(trained, 450, 20, config, folder="cut")
    assert len(calls) == 40
    left[0] = 2
    with pytest.raises(KeyboardInterrupt):
        run_lib.stats(config, tmp_path / "s.npz")
    assert [path.name for path in tmp_path.iterdir()] == [".s.npz.underway"] and len(calls) == 42
    left[0] = 99
    run_lib.stats(config, tmp_path / "s.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"] and len(calls) == len(set(calls[40:])) + 40 == 47
