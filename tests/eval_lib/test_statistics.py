import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_lib import digits
from eval_lib import inception_file, statistics
from eval_lib.features import ClassifierFeatures, InceptionFeatures, RawFeatures
from eval_lib.network import Features
from eval_lib.statistics import Moments
from tests.helpers import close


def cut(x, sizes):
    return np.split(x, np.cumsum(sizes))


def of(batches, function=RawFeatures(), keep=True, **protocol):
    return statistics.statistics_of(batches, function, {"features": "raw", **protocol}, {"split": "train"}, keep)


def test_batches_do_not_matter():
    """Means far from zero, of spreads a thousand times smaller: mean and covariance to 10⁻⁹, whatever the batches."""
    draw = np.random.default_rng(0)
    x = 1000 + draw.normal(size=(1000, 6)) @ draw.normal(size=(6, 6))
    whole = of([x])
    close(whole.cov, np.cov(x.T), 1e-9)
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-14)
    for sizes in ([1] * 999, [7] * 142, [500], [999], [0, 3, 0]):
        other = of(cut(x, sizes))
        assert other.count == 1000
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-9)
        np.testing.assert_allclose(other.cov, whole.cov, rtol=1e-9, atol=1e-9 * np.abs(whole.cov).max())
        np.testing.assert_array_equal(other.features, x.astype(np.float32))


def test_memory_does_not_grow_with_the_number():
    def images(n):
        for i in range(n):
            yield np.random.default_rng(i).normal(size=(100, 8, 8, 1))

    peaks = []
    for n in (5, 100):
        tracemalloc.start()
        assert of(images(n), keep=False).count == 100 * n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_file_holds_everything(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 4))
    stats = statistics.statistics_of([x], lambda x: Features(x, x[:, :2]), {"resize": "none"}, {"split": "test"})
    statistics.save(tmp_path / "s.npz", stats)
    back = statistics.load(tmp_path / "s.npz")
    assert (back.count, back.protocol, back.about) == (50, {"resize": "none"}, {"split": "test"})
    for name in ("mean", "cov", "features", "logits"):
        np.testing.assert_array_equal(getattr(back, name), getattr(stats, name))
    statistics.save(tmp_path / "m.npz", of([x], keep=False))
    with pytest.raises(ValueError, match=r"this metric requires the features of \{'split': 'train'\}, which were not"):
        statistics.load(tmp_path / "m.npz").kept()
    (tmp_path / "bad.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bad.npz: not a file of statistics, as --mode=stats writes"):
        statistics.load(tmp_path / "bad.npz")


def test_a_file_of_version_0_1_is_read(tmp_path):
    """Its protocol has "quantisation" for "quantization"; it is comparable with new statistics, and saved anew."""
    x = np.random.default_rng(0).normal(size=(9, 2))
    statistics.save(tmp_path / "old.npz", of([x], quantisation="uint8"))
    old, new = statistics.load(tmp_path / "old.npz"), of([x], quantization="uint8")
    assert old.protocol == new.protocol == {"features": "raw", "quantization": "uint8"}
    statistics.require_comparable(old, new)
    statistics.save(tmp_path / "new.npz", old)
    with np.load(tmp_path / "new.npz") as file:
        assert "quantisation" not in str(file["protocol"])


def test_unlike_protocols_are_refused():
    x = np.random.default_rng(0).normal(size=(9, 2))
    a, b = of([x], resize="none", quantization="uint8"), of([x], resize="299", quantization="uint8")
    statistics.require_comparable(a, of([x[:5]], resize="none", quantization="uint8"))
    with pytest.raises(ValueError, match=r'since resize differ: .*"resize": "none".* against .*"resize": "299"'):
        statistics.require_comparable(a, b)
    with pytest.raises(ValueError, match="since quantization, resize differ"):
        statistics.require_comparable(a, of([x]))


def test_what_moments_refuse():
    moments = Moments()
    moments.add(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"expected features \[B, 2\], got shape \(3, 4\)"):
        moments.add(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="1 values are not finite, among images 3 to 4"):
        moments.add(np.array([[0, 1], [np.nan, 0]]))
    with pytest.raises(ValueError, match="a covariance requires at least 2 images, got 0"):
        Moments().cov()
    with pytest.warns(UserWarning, match="2 images give no full-rank covariance of 3 features: 4 are needed"):
        of([np.eye(3)[:2]])


def test_features_of_a_classifier():
    """Its logits are those of the probabilities, its digest is that of the weights, one seed gives one classifier."""
    train = digits().train
    fitted = ClassifierFeatures(width=16, seed=1).fitted(train.x[:300], train.label[:300])
    features, logits = fitted(train.x[:20])
    assert features.shape == (20, 16) and np.all(features >= 0)
    p = np.exp(logits - logits.max(1, keepdims=True))
    expected = fitted.classifier(train.x[:20].reshape(20, -1).astype(np.float64))
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), expected, atol=1e-12)
    again = ClassifierFeatures(width=16, seed=1).fitted(train.x[:300], train.label[:300])
    other = ClassifierFeatures(width=16, seed=2).fitted(train.x[:300], train.label[:300])
    assert fitted.protocol == again.protocol != other.protocol
    with pytest.raises(ValueError, match="no labels to train a classifier on"):
        ClassifierFeatures().fitted(train.x, None)


def test_logits_are_stored_only_if_all_batches_have_them():
    x = np.random.default_rng(0).normal(size=(6, 2))
    both = statistics.statistics_of([x[:2], x[2:]], lambda x: Features(x, x[:, :1]), {}, {})
    np.testing.assert_array_equal(both.logits, x[:, :1].astype(np.float32))
    for size in (2, 4):
        function = lambda x: Features(x, x[:, :1] if len(x) == size else None)  # noqa: B023, E731
        some = statistics.statistics_of([x[:2], x[2:]], function, {}, {})
        assert some.logits is None and some.features.shape == (6, 2)


# The weights' file


def test_without_the_file_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        InceptionFeatures()(np.zeros((1, 8, 8, 3), np.uint8))
    message = str(error.value)
    for part in (f"{tmp_path}/score-sde-jax/pt_inception-2015-12-05-6726825d.pth", inception_file.SHA256,
                 "python -m eval_lib", "https://github.com/"):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_another_file_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"w.pth: expected the Inception weights, sha256 6726825d.*, got f41f3fa6"):
        inception_file.read_weights(tmp_path / "w.pth")


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch, capsys):
    """From a file of this machine, in place of the network."""
    tensors = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    content = tensors + pickle.dumps({"a": 1}, 2) + pickle.dumps([], 2) + struct.pack("")
    (tmp_path / "published").write_bytes(content)
    url = (tmp_path / "published").as_uri()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="expected the Inception weights"):
        inception_file.download(url)
    assert list((tmp_path / "cache" / "score-sde-jax").iterdir()) == []
    monkeypatch.setattr(inception_file, "SHA256", inception_file.hashlib.sha256(content).hexdigest())
    path = inception_file.download(url)
    assert f"{url} → {path}" in capsys.readouterr().out
    (tmp_path / "published").unlink()
    assert inception_file.download(url) == path and inception_file.read_weights() == {"a": 1}
    path.unlink()
    with pytest.raises(OSError, match=rf"^{url}: .*; or copy the file, sha256 [0-9a-f]{{64}}, to {path}$"):
        inception_file.download(url)
    assert list(path.parent.iterdir()) == []


def test_variances_alone_are_the_diagonal():
    """In any batches, without a warning for few images, and without the memory of a covariance."""
    x = np.random.default_rng(0).normal(size=(30, 3)) * [1, 100, 1e-3] + 7
    full = statistics.statistics_of([x[:4], x[4:]], RawFeatures(), {}, {})
    alone = statistics.statistics_of([x[:11], x[11:]], RawFeatures(), {}, {}, full=False)
    np.testing.assert_allclose(alone.cov, np.diag(full.cov), rtol=1e-10)
    np.testing.assert_allclose([alone.sd, full.sd], [x.std(0, ddof=1)] * 2, rtol=1e-10)
    np.testing.assert_array_equal(alone.rows(slice(2, 5)).features, alone.features[2:5])
    assert alone.rows(slice(2, 5)).logits is None and alone.rows(slice(2, 5)).count == 30
    wide = statistics.statistics_of([np.ones((2, 10**6))], RawFeatures(), {}, {}, full=False)
    assert wide.cov.shape == (10**6,) and not wide.sd.any()


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--hlep", 2), ("file.pth", 2)])
def test_help_downloads_nothing(tmp_path, flag, status):
    """`python -m eval_lib --help` says what would be downloaded, and where to; other arguments are refused."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "eval_lib", flag]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment)
    assert done.returncode == status and list(tmp_path.iterdir()) == []
    assert status or ("96 MB" in done.stdout and inception_file.URL.rsplit("/", 1)[1][:20] in done.stdout)
