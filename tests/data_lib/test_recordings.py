"""Folders of recordings: every encoding, windows in memory and on demand alike, labels, silence, channels."""

import wave

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import resample_poly

from data_lib import ArraySource, from_audio, gather
from data_lib.recordings import WindowSource, open_recording, resampled, resampled_length
from io_lib.sounds import write_wav

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(-0.9, 0.9, (5000, 2))


def write_24_bits(path, x, rate):
    values = np.rint(x * 2**23).astype("<i4")
    content = values.reshape(-1, 1).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if x.ndim == 1 else x.shape[1])
        file.setsampwidth(3)
        file.setframerate(rate)
        file.writeframes(content)


def test_24_bits_are_read_to_their_precision_whole_and_in_parts(tmp_path):
    write_24_bits(tmp_path / "a.wav", NOISE, 8000)
    found = open_recording(tmp_path / "a.wav")
    assert found[:3] == (8000, 5000, 2)
    for start, stop in ((0, 5000), (17, 18), (4990, 5000)):
        np.testing.assert_allclose(found.part(start, stop), NOISE[start:stop], atol=2**-23)


@pytest.mark.parametrize(
    "given, rate", [(8000, 8000), (44_100, 16_000), (8000, 16_000), (48_000, 8000), (11_025, 8000)]
)
@pytest.mark.parametrize("encoding", ["16 bits", "24 bits", "float"])
def test_a_part_of_a_file_is_that_of_the_whole_file_resampled(tmp_path, given, rate, encoding):
    write = {
        "16 bits": lambda: write_wav(tmp_path / "a.wav", NOISE, given),
        "24 bits": lambda: write_24_bits(tmp_path / "a.wav", NOISE, given),
        "float": lambda: wavfile.write(tmp_path / "a.wav", given, NOISE.astype(np.float32)),
    }
    write[encoding]()
    found = open_recording(tmp_path / "a.wav")
    common = np.gcd(given, rate)
    whole = NOISE if given == rate else resample_poly(NOISE, rate // common, given // common, axis=0)
    total = resampled_length(found, rate)
    assert total == len(whole)
    for start, stop in ((0, total), (0, 100), (301, 402), (total - 77, total), (total - 1, total)):
        bound = 3 * 2**-16 if encoding == "16 bits" else 3e-6
        np.testing.assert_allclose(resampled(found, rate, start, stop), whole[start:stop], atol=bound)


@pytest.mark.parametrize("options", [
    dict(), dict(hop=30), dict(channels="each"), dict(hop=30, channels="each", silence_db=-20.0),
    dict(rate=4000, hop=7),
])  # fmt: skip
def test_windows_on_demand_are_those_in_memory(tmp_path, options):
    for i, (name, rate) in enumerate((("b/1", 8000), ("a/2", 11_025), ("a/3", 8000), ("b/4", 8000), ("c/5", 16_000))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        x = NOISE[: 900 + 50 * i] * np.repeat([1.0, 0.01, 0.5], 400)[: 900 + 50 * i, None]
        write_wav(tmp_path / f"{name}.wav", x if i % 2 else x[:, 0], rate)
    options = {"rate": 8000, "length": 100, "test": 2} | options
    held, lazy = from_audio(tmp_path, **options), from_audio(tmp_path, in_memory=False, **options)
    for a, b in zip(held, lazy, strict=True):
        assert isinstance(a, ArraySource) and isinstance(b, WindowSource) and len(a) == len(b) > 3
        assert a.classes == b.classes == ("a", "b", "c")
        found = gather(b, np.arange(len(b)))
        np.testing.assert_allclose(found["x"], a.x, atol=1e-6)
        np.testing.assert_array_equal(found["label"], a.label)
    if "silence_db" in options:
        assert all(np.sqrt(np.mean(part.x**2, axis=(1, 2))).min() >= 0.1 * (1 - 1e-6) for part in held)


def test_windows_overlap_by_the_hop_and_channels_have_their_own(tmp_path):
    for i in range(3):
        wavfile.write(tmp_path / f"{i}.wav", 100, np.stack([np.arange(55), -np.arange(55)], 1).astype(np.float32) / 100)
    part = from_audio(tmp_path, rate=100, length=20, hop=10, channels="each", test=1).test
    assert part.x.shape == (8, 20, 1)
    np.testing.assert_allclose(part.x[:4, 0, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(part.x[4:], -part.x[:4])


def test_labels_are_the_folders_below_the_root_or_the_split(tmp_path, caplog):
    for name in ("train/10/a", "train/2/b", "test/2/c", "test/10/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(tmp_path / f"{name}.wav", NOISE[:40, 0], 100)
    parts = from_audio(tmp_path, rate=100, length=20)
    assert parts.train.classes == ("2", "10")  # by value
    np.testing.assert_array_equal(parts.train.label, [1, 1, 0, 0])
    assert from_audio(tmp_path, rate=100, length=20, labels="none").train.label is None
    write_wav(tmp_path / "train" / "e.wav", NOISE[:40, 0], 100)
    assert from_audio(tmp_path, rate=100, length=20).train.label is None
    assert "no labels, since 1 recordings are in no folder (first: train/e.wav)" in caplog.text
    with pytest.raises(ValueError, match=r"labels='folders', but train/e\.wav is in no folder"):
        from_audio(tmp_path, rate=100, length=20, labels="folders")


def test_what_is_dropped_is_said_and_silence_alone_is_refused(tmp_path, caplog):
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", np.concatenate([NOISE[:20, 0], np.zeros(25)]), 100)
    parts = from_audio(tmp_path, rate=100, length=20, test=2, silence_db=-60.0)
    assert [len(part) for part in parts] == [2, 2]
    assert "4 windows below -60 dB dropped" in caplog.text and "20 values after a last window left out" in caplog.text
    with pytest.raises(ValueError, match=r"train: all windows are below silence_db=-0\.5"):
        from_audio(tmp_path, rate=100, length=20, test=2, silence_db=-0.5)
    constant = tmp_path / "constant"
    constant.mkdir()
    for i in range(2):
        write_wav(constant / f"{i}.wav", np.full(20, 0.5), 100)
    assert from_audio(constant, rate=100, length=20, test=1, silence_db=-7.0).train.x.shape == (1, 20, 1)


def test_a_file_that_turns_out_to_be_bad_when_it_is_read(tmp_path):
    for i in range(4):
        wavfile.write(tmp_path / f"{i}.wav", 100, np.full(20, 0.1 * i, np.float32))
    lazy = from_audio(tmp_path, rate=100, length=20, test=1, in_memory=False)
    skip = from_audio(tmp_path, rate=100, length=20, test=1, in_memory=False, on_error="skip")
    path = skip.train.places[0][0]
    wavfile.write(path, 100, np.full(20, np.nan, np.float32))
    np.testing.assert_array_equal(skip.train[0]["x"], skip.train[1]["x"])
    with pytest.raises(ValueError, match="20 of 20 values are not finite"):
        lazy.train[0]


@pytest.mark.parametrize("options, message", [
    (dict(rate=0), "expected rate and length of 1 or more, and hop of 0 or more, got 0, 20 and 0"),
    (dict(hop=-1), "got 100, 20 and -1"),
    (dict(channels="left"), "channels: expected one of mean, each, got 'left'"),
    (dict(labels="csv"), "labels: expected one of auto, folders, none, got 'csv'"),
    (dict(on_error="ask"), "on_error: expected one of raise, skip, got 'ask'"),
])  # fmt: skip
def test_unknown_options_are_refused(tmp_path, options, message):
    for i in range(2):
        write_wav(tmp_path / f"{i}.wav", NOISE[:40, 0], 100)
    with pytest.raises(ValueError, match=message):
        from_audio(tmp_path, **{"rate": 100, "length": 20, "test": 1, **options})


def test_flac_is_read_in_parts_as_whole(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for bits in ("PCM_16", "PCM_24"):
        soundfile.write(tmp_path / "a.flac", NOISE, 44_100, subtype=bits)
        found = open_recording(tmp_path / "a.flac")
        whole = resampled(found, 16_000, 0, resampled_length(found, 16_000))
        np.testing.assert_allclose(whole, resample_poly(NOISE, 160, 441, axis=0), atol=3 * 2**-16)
        np.testing.assert_allclose(resampled(found, 16_000, 300, 400), whole[300:400], atol=1e-6)
