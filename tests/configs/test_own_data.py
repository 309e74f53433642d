"""--data: which source, transform and shape a path or a name stands for; and that training on them starts."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import run_lib
from config_lib.command_line import parse
from config_lib.names import ConfigError
from config_lib.spec import build, from_json, spec, to_json
from configs import points
from configs.own_data import with_data
from data_lib import Dataset, Identity, Scale, Standardize, describe, from_arrays, from_tfrecord, shared_examples
from io_lib.metrics import read_metrics
from run_modes import describe_data
from run_modes.data import log_shared
from tests.data_lib.test_archives import mnist
from tests.data_lib.test_images import folder_of, spoiled
from tests.data_lib.test_tfrecord import example, frame, written
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")


def built(config):
    """Through JSON, as a work directory keeps it."""
    config = from_json(to_json(config))
    return build(config.data), build(config.transform), tuple(config.shape)


def test_a_folder_of_images_is_made_to_the_shape(tmp_path):
    config = with_data(get_config(), str(folder_of(tmp_path)))
    data, transform, shape = built(config)
    assert data.train.x.shape[1:] == shape == (8, 8, 1) and transform == Scale(0, 255)
    config.shape = (4, 6, 3)
    assert built(config)[0].train.x.shape[1:] == (4, 6, 3)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.arange(1600).astype(np.uint8).reshape(20, 8, 10, 1), Scale(0, 255)),
        (np.linspace(0, 1, 1280).reshape(20, 8, 8, 1), Scale(0, 1)),
        (np.linspace(-0.9, 1, 3840).reshape(20, 8, 8, 3), Scale(-1, 1)),
    ],
)
def test_arrays_of_images(tmp_path, x, expected):
    np.savez(tmp_path / "own.npz", images=x, y=np.arange(20))
    data, transform, shape = built(with_data(get_config(), str(tmp_path / "own.npz")))
    assert transform == expected and shape == x.shape[1:] and len(data.train.label) + len(data.test.label) == 20
    assert {image.tobytes() for part in data for image in part.x} == {image.tobytes() for image in x}


def test_other_arrays_are_standardized_and_the_statistics_are_kept(tmp_path):
    x = np.random.default_rng(0).normal((10, -3), (4, 0.1), (500, 2))
    np.save(tmp_path / "own.npy", x)
    data, transform, _ = built(with_data(points.get_config(), str(tmp_path / "own.npy")))
    assert isinstance(transform, Standardize)
    np.testing.assert_allclose(transform.mean, data.train.x.mean(0), rtol=1e-6)
    z = transform.forward(data.train.x)
    np.testing.assert_allclose([z.mean(0), z.std(0)], [[0, 0], [1, 1]], atol=1e-4)


def test_names(tmp_path):
    for name in ("moons", "swirl", "checkerboard", "gaussians"):
        data, transform, _ = built(with_data(points.get_config(), name))
        assert transform == Identity() and len(data.train) == 9000 and data.train.name.startswith(name)
    data, transform, _ = built(with_data(get_config(), "digits"))
    assert len(data.train) == 1297 and transform == Scale(0, 16)
    config = with_data(get_config(), "mnist_corrupted/identity")
    assert config.data["call"] == "data_lib:tfds_dataset" and config.data.name == "mnist_corrupted/identity"


def test_archives_and_recordings(tmp_path):
    for name in ("mnist", "faces", "sound"):
        (tmp_path / name).mkdir()
    x, _ = mnist(tmp_path / "mnist")
    data, _, shape = built(with_data(get_config(), str(tmp_path / "mnist")))
    assert shape == (28, 28, 1) and len(data.train) == 20
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        for name in ("train", "test"):
            member = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            member.size = 3 * 3074
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    assert built(with_data(get_config(), str(tmp_path / "c.tar.gz")))[2] == (32, 32, 3)
    x = written(tmp_path / "faces" / "a-r04.tfrecords")
    data, _, shape = built(with_data(get_config(), str(tmp_path / "faces")))
    assert shape == x.shape[1:] and len(data.train) + len(data.test) == 12
    for i in range(20):
        wavfile.write(tmp_path / "sound" / f"{i}.wav", 16_000, np.zeros(100, np.float32))
    config = get_config()
    config.shape = (50, 1)
    assert built(with_data(config, str(tmp_path / "sound")))[0].train.x.shape[1:] == (50, 1)
    (tmp_path / "a.txt").write_text("0123456789" * 100)
    data, transform, shape = built(with_data(config, str(tmp_path / "a.txt")))
    assert shape == (50, 8) and set(np.unique(transform.forward(data.train.x))) == {-1, 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "--data= is empty: expected a path or a name"),
        ("none.npz", r"--data=none\.npz: no such file"),
        ("./none", r"--data=\./none: no such file or folder"),
        ("moons", r"--data=moons: events of shape \(2,\), but the config is for events like \(8, 8, 1\)"),
        ("empty", r"--data=empty: empty: expected files that end in .*, got no files"),
        ("a.pdf", r"--data=a\.pdf: expected a folder, or a file that ends in \.npz, \.npy"),
        ("two.npz", r"--data=two\.npz: expected one array x, image or images, got \['a', 'b'\]"),
        ("bad.npz", r"--data=bad\.npz: "),
        ("nan.npy", r"--data=nan\.npy: nan\.npy: x: 1 of 640 values are not finite"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pdf").write_text("")
    (tmp_path / "bad.npz").write_text("no arrays")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.save(tmp_path / "nan.npy", np.where(np.arange(640).reshape(10, 8, 8, 1) == 5, np.nan, 0.0))
    with pytest.raises(ConfigError, match=message):
        with_data(get_config(), data)


def test_the_flag_comes_before_the_overrides(tmp_path):
    from absl import flags

    from config_lib.command_line import define_config_flag

    folder_of(tmp_path)
    if "data" not in flags.FLAGS:
        define_config_flag()
    given = ["main.py", "--config=tests/tiny_config.py", f"--data={tmp_path}"]
    try:
        config = parse([*given, "--config.data.test=0.5", "--config.shape=(4,4,3)"])
    finally:
        flags.FLAGS.data = None
    data, _, _ = built(config)
    assert config.data.test == 0.5 and data.train.x.shape[1:] == (4, 4, 3) and len(data.test) > 4
    assert parse([*given[:2], f"--config.data={tmp_path}", "--config.data.test=3"]).data.test == 3
    with pytest.raises(ConfigError, match=r"--data=none/a\.npz: no such file or folder"):
        parse([*given[:2], "--config.data=none/a.npz"])


@pytest.fixture
def parsed():
    """argv → config, with fresh flags."""
    from absl import flags

    from config_lib.command_line import define_config_flag

    if "data" not in flags.FLAGS:
        define_config_flag()
    yield lambda *arguments: parse(["main.py", "--config=configs/points.py", *map(str, arguments)])
    flags.FLAGS.data = None


@pytest.mark.parametrize("flag", ["test=1", "test=1.0", "test 1", "heldout=1", "heldout 1"])
def test_the_size_of_the_split_is_known_when_the_data_are_read(tmp_path, parsed, flag):
    """Four examples have no test examples at the default of a tenth; the transform is that of the training examples."""
    x = np.float64([[0, 1], [2, 3], [4, 50], [6, 7]])
    np.savez(tmp_path / "four.npz", x=x)
    config = parsed(f"--data={tmp_path / 'four.npz'}", *f"--config.data.{flag}".split(" "))
    data, transform, _ = built(config)
    assert [len(part) for part in data] == [3, 1] and "heldout" not in config.data
    np.testing.assert_allclose(transform.mean, data.train.x.mean(0))
    with pytest.raises(ConfigError, match=r"test=1\.5: expected a whole number of examples, or a share"):
        parsed(f"--data={tmp_path / 'four.npz'}", "--config.data.test=1.5")
    with pytest.raises(ConfigError, match=r"unknown config key config\.data\.tst; nearest: config\.data\.test"):
        parsed(f"--data={tmp_path / 'four.npz'}", "--config.data.tst=1")


def test_other_options_are_known_too(tmp_path, parsed):
    """The array that holds events, the split's seed, the length of windows, the characters of a text."""
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", p=generator.normal(5, 1, (40, 2)), q=np.arange(40), r=np.zeros((40, 3)))
    given = f"--data={tmp_path / 'a.npz'}", "--config.data.x=p", "--config.data.label", "q", "--config.data.seed=3"
    with pytest.raises(ConfigError, match=r"not used: r \[40, 3\]; name them by label=, cond= or ignore="):
        parsed(*given)
    given = *given, "--config.data.ignore=r"
    data, transform, _ = built(config := parsed(*given))
    np.testing.assert_allclose(transform.mean, data.train.x.mean(0))
    assert data.train.label is not None and config.data.seed == 3
    (tmp_path / "a.txt").write_text("abca" * 100)
    config = get_config()
    config.shape = (10, 1)
    config = with_data(config, str(tmp_path / "a.txt"), ["--config.data.length=20", "--config.data.alphabet=abc"])
    data, _, shape = built(config)
    assert data.train.x.shape[1:] == shape == (20, 2)


@pytest.mark.usefixtures("usual_promotion")
def test_an_image_config_trains_on_a_folder(tmp_path):
    config = with_data(get_config(), str(folder_of(tmp_path / "images", count=40)))
    config.eval.batch_size = 8
    config.training.update(num_steps=10, eval_every=10, sample_every=0, checkpoint_every=10)
    assert run_lib.train(config, tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-1]["step"] == 10


# --mode=data


def test_a_description_counts_what_is_there(tmp_path, capsys):
    spoiled(tmp_path / "images")
    config = with_data(get_config(), str(tmp_path / "images"))
    found = describe_data.describe_data(config, tmp_path / "sheet.png")
    printed = capsys.readouterr().out
    assert found.train.count + found.test.count == 40 and found.train.shape == (8, 8, 1)
    assert dict(found.train.labels) == {"all": found.train.count} and "one class only" in printed
    for name in ("cut.jpg", "empty.png", "text.png", "float.tiff"):
        assert name in printed
    assert "files cannot be read; --config.data.on_error=skip trains without them:" in printed
    data, transform, _ = built(config)
    assert (found.train.low, found.train.high) == (data.train.x.min(), data.train.x.max())
    np.testing.assert_allclose(found.train.sigma_data, np.std(transform.forward(data.train.x)), rtol=1e-5)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 32 * np.sqrt(found.train.count) and sheet.mode == "L"


def test_examples_on_both_sides_are_counted_and_logged(tmp_path, caplog):
    x = np.arange(20.0)[:, None] // 2  # each twice
    data = from_arrays(x, test=8, seed=1)
    repeated = sum(value in data.train.x for value in data.test.x)
    assert 0 < shared_examples(data) == repeated
    np.savez(tmp_path / "twice.npz", x=np.zeros((20, 2)))
    config = with_data(points.get_config(), str(tmp_path / "twice.npz"))
    describe_data.describe_data(config)
    assert "2 of 2 test examples are also training examples" in caplog.text


def test_of_data_read_by_index_it_is_said_what_is_known(caplog):
    rows = [{"x": np.float32([i]), "label": -(i % 2)} for i in range(30)]
    with caplog.at_level("INFO"):
        log_shared(Dataset(rows[:20], rows[20:]))
    assert "not checked whether test examples are also training examples" in caplog.text
    log_shared(Dataset(rows, rows))
    assert "30 of 30 test examples are also training examples" in caplog.text
    text = str(describe(Dataset(rows[:20], rows[20:]), Identity()))
    assert "labels -1: 10, 0: 10; labels below 0 are out of range" in text and "not checked whether test" in text


def test_data_that_turn_out_to_be_damaged_are_one_line(tmp_path):
    (tmp_path / "a.tfrecords").write_bytes(frame(example(shape=[3, 4, 5], data=b"1")) * 4)
    config = get_config()
    config.data = spec(from_tfrecord, path=str(tmp_path / "a.tfrecords"))
    with pytest.raises(ConfigError, match=r"config\.data: .*record \d: shape .* and 1 bytes of data do not agree"):
        describe_data.describe_data(config)


def test_data_have_a_picture_whatever_they_are(tmp_path):
    config = with_data(points.get_config(), "moons")
    describe_data.describe_data(config, tmp_path / "moons.png")
    with Image.open(tmp_path / "moons.png") as picture:
        assert np.asarray(picture).std() > 10
    spectra = np.random.default_rng(0).normal(size=(20, 5))
    describe_data.describe_data(config, tmp_path / "a.png", from_arrays(spectra))
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).std() > 10
