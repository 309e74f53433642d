"""What a sample is: conversions between model space, stored samples and data; files; what is shown."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy.io import wavfile

from config_lib.spec import spec
from data_lib import Bits, Identity, Scale, Standardize, Waveform, form_of, from_audio, from_text, text_of
from io_lib.writers import TensorBoard
from run_modes.data import build_transform

RNG = np.random.default_rng(0)
CASES = {  # transform, data
    "pixels": (Scale(), RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)),
    "gray levels": (Scale(0.0, 16.0), RNG.integers(0, 17, (5, 4, 6, 1)).astype(np.float32)),
    "channels": (Scale(), RNG.integers(0, 256, (5, 4, 6, 5), dtype=np.uint8)),
    "sounds": (Waveform(rate=8000), RNG.uniform(-1, 1, (5, 40, 1)).astype(np.float32)),
    "bits": (Bits(), RNG.integers(0, 2, (5, 7, 8)).astype(np.float32)),
    "points": (Standardize((1.0, 2.0), (3.0, 4.0)), RNG.normal(size=(5, 2)).astype(np.float32)),
    "arrays": (Standardize(1.0, 2.0), RNG.normal(size=(5, 9)).astype(np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_four_conversions_agree(name):
    """data → stored → model space → stored → data; and what is stored is the model's, converted."""
    transform, data = CASES[name]
    form = form_of(transform, data.shape[1:])
    stored = form.of_data(data)
    pixel = 0 if form.quantization == "none" else 0.5 / 255
    np.testing.assert_allclose(form.to_data(stored), data, atol=2 * np.ptp(data.astype(float)) * (pixel + 1e-6))
    np.testing.assert_allclose(form.from_samples(stored), transform.forward(data), atol=2.1 * pixel + 1e-5)
    np.testing.assert_allclose(form.to_samples(form.from_samples(stored)).astype(np.float64), stored, atol=1e-5)
    assert form.to_samples(transform.forward(data)).dtype == (np.uint8 if pixel else np.float32)


@pytest.mark.parametrize(("name", "suffix"), [("pixels", "png"), ("gray levels", "png"), ("channels", "npy")])
def test_images_are_files_that_are_read_back(tmp_path, name, suffix):
    transform, data = CASES[name]
    form = form_of(transform, data.shape[1:])
    form.write(tmp_path / f"a.{form.suffix}", one := form.of_data(data)[0])
    read = np.load(tmp_path / "a.npy") if suffix == "npy" else np.asarray(Image.open(tmp_path / "a.png"))
    assert form.suffix == suffix
    np.testing.assert_array_equal(read.reshape(one.shape), one)


def test_texts_are_those_of_the_bits_of_the_data():
    """Of bits 0 and 1 with noise; in model space, where 0 is −1, as in the units of the data."""
    text = "naïve – text"
    bits = np.unpackbits(np.frombuffer(text.encode(), np.uint8)).reshape(1, -1, 8)
    noisy = bits + 0.4 * RNG.uniform(-1, 1, bits.shape)
    form = form_of(Bits(), bits.shape[1:])
    assert form.texts(noisy) == [text] == text_of(Bits().forward(noisy))


@pytest.mark.parametrize("name", ["sounds", "bits", "pixels"])
def test_a_preview_is_shown_by_tensorboard(tmp_path, name):
    """The events have the files as they are."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    transform, data = CASES[name]
    form, log = form_of(transform, data.shape[1:]), TensorBoard(tmp_path)
    files = form.preview(tmp_path / "step_0000010", form.of_data(data))
    for file in files:
        log.show(10, file)
    log.close(failed=False)
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(record) for record in records(path.read_bytes())]
    values = [value for event in events if event.step == 10 for value in event.summary.value]
    assert len(values) == len(files) == {"sounds": 2, "bits": 1, "pixels": 1}[name]
    for value, file in zip(values, files, strict=True):
        if file.suffix == ".wav":
            assert value.audio.encoded_audio_string == file.read_bytes()
            rate, sound = wavfile.read(file)
            assert (value.audio.sample_rate, value.audio.length_frames) == (rate, len(sound)) and rate == 8000
        elif file.suffix == ".png":
            assert value.image.encoded_image_string == file.read_bytes()
            with Image.open(file) as picture:
                assert (value.image.width, value.image.height) == picture.size
        else:
            shown = value.tensor.string_val[0].decode()
            assert [line[4:] for line in shown.splitlines()] == file.read_text().splitlines()


def records(content: bytes):
    """The records of a file of events: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]


@pytest.mark.parametrize(
    ("data", "transform", "expected"),
    [
        (spec(from_audio, path="a", rate=8000), spec(Identity), Waveform(rate=8000)),
        (spec(from_audio, path="a"), spec(Identity), Waveform(rate=16_000)),
        (spec(from_text, path="a", alphabet="abc"), spec(Scale, low=0.0, high=1.0), Bits(alphabet="abc")),
        (spec(from_audio, path="a"), spec(Standardize, mean=0.0, std=0.1), Standardize(0.0, 0.1)),
    ],
)
def test_runs_of_recordings_and_texts_from_before_there_were_forms(data, transform, expected):
    assert build_transform(ConfigDict({"data": data, "transform": transform})) == expected
