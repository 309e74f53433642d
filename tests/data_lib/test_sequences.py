import numpy as np
import pytest
from scipy.io import wavfile

from data_lib import Scale, alphabet_of, from_audio, from_text, text_of
from data_lib.recordings import read_audio


def tone(rate, seconds=1.0, hertz=100):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: np.int16(np.rint(x * 2**15)),
        lambda x: np.int32(np.rint(x * 2**31)),
        lambda x: np.uint8(np.rint(x * 128 + 128)),
        np.float32,
        np.float64,
    ],
)
def test_full_scale_is_one_in_every_encoding(tmp_path, encode):
    wavfile.write(tmp_path / "a.wav", 8000, encode(tone(8000)))
    x = read_audio(tmp_path / "a.wav", 8000)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, tone(8000), atol=0.6 / 128)


def test_another_rate_keeps_the_tone_and_channels_are_averaged(tmp_path):
    both = np.stack([tone(44_100) + 0.1, tone(44_100) - 0.3], axis=1).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", 44_100, both)
    x = read_audio(tmp_path / "a.wav", 16_000)
    assert x.shape == (16_000,)
    np.testing.assert_allclose(x[1000:-1000], (tone(16_000) - 0.1)[1000:-1000], atol=1e-3)


def test_windows_of_a_file_stay_on_one_side(tmp_path):
    for i in range(10):
        wavfile.write(tmp_path / f"{i}.wav", 100, (np.arange(35) / 100 + i).astype(np.float32))
    parts = from_audio(tmp_path, rate=100, length=10, test=3)
    assert [part.x.shape for part in parts] == [(21, 10, 1), (9, 10, 1)]
    files = [set(np.floor(part.x.ravel()).astype(int)) for part in parts]
    assert files[0] | files[1] == set(range(10)) and not files[0] & files[1]
    np.testing.assert_allclose(np.diff(parts.train.x[:3].ravel()), 0.01, atol=1e-5)


def test_recordings_that_cannot_be_read(tmp_path):
    for i in range(6):
        wavfile.write(tmp_path / f"{i}.wav", 100, np.zeros(30, np.float32))
    wavfile.write(tmp_path / "short.wav", 100, np.zeros(9, np.float32))
    wavfile.write(tmp_path / "nan.wav", 100, np.full(30, np.nan, np.float32))
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    parts = from_audio(tmp_path, rate=100, length=10, test=5, on_error="skip")
    reasons = {bad.path.rsplit("/")[-1]: bad.reason for part in parts for bad in part.unreadable}
    assert sorted(reasons) == ["a.flac", "empty.wav", "nan.wav", "short.wav", "text.wav"]
    assert reasons["short.wav"] == "9 values are shorter than one window of 10"
    assert reasons["nan.wav"] == "30 of 30 values are not finite"
    with pytest.raises(ValueError, match=r"files cannot be read; on_error=\"skip\""):
        from_audio(tmp_path, rate=100, length=10, test=5)


def test_what_happens_to_recordings_is_counted_and_said_once(tmp_path, caplog):
    root = tmp_path / "sound"
    root.mkdir()
    for i in range(4):
        wavfile.write(root / f"{i}.wav", 100, np.zeros(30, np.float32))
    from_audio(root, rate=100, length=10, test=2)
    assert not caplog.text
    wavfile.write(root / "a.wave", 200, np.zeros(75, np.float32))  # 38 values at rate 100
    wavfile.write(root / "b.bwf", 100, np.zeros((34, 2), np.float32))
    (root / "c.mp3").write_bytes(b"")
    parts = from_audio(root, rate=100, length=10, test=2)
    assert sum(len(part) for part in parts) == 18
    lines = [record.message for record in caplog.records]
    assert lines[0] == f"{root}: left out: 1 file (1 .mp3)" and len(lines) == 2
    for part in (
        "6 recordings",
        "1 resampled to 100 values per",
        "1 of several channels, averaged",
        "12 values after a",
    ):
        assert part in lines[1]


@pytest.mark.parametrize("kind", ["sound", "text"])
def test_folders_of_splits_hold_the_splits_of_recordings_and_texts(tmp_path, caplog, kind):
    for number, split in enumerate(("Train", "test", "validation")):
        folder = tmp_path / split / "speaker"
        folder.mkdir(parents=True)
        for i in range(number + 1):
            if kind == "sound":
                wavfile.write(folder / f"{i}.wav", 100, np.full(20, number, np.float32))
            else:
                (folder / f"{i}.txt").write_text(str(number) * 20)
    if kind == "sound":
        parts = from_audio(tmp_path, rate=100, length=10)
        found = [set(part.x.ravel()) for part in parts]
    else:
        parts = from_text(tmp_path, length=10)
        found = [{int(text[0]) for text in text_of(part.x)} for part in parts]
    assert found == [{0}, {1}] and [len(part) for part in parts] == [2, 4]
    assert "train (1 file); for testing: test (2), for any test=; not used: validation (3 files)" in caplog.text
    if kind == "sound":
        assert parts.train.classes == ("speaker",)
    else:
        assert "its folders are not read as labels: speaker" in caplog.text


def test_the_rest_of_a_text_is_said(tmp_path, caplog):
    (tmp_path / "a.text").write_text("x" * 47)
    (tmp_path / "b.markdown").write_text("x" * 31)
    (tmp_path / "c.rtf").write_text("x" * 31)
    assert sum(len(part) for part in from_text(tmp_path, length=10, test=2)) == 7
    assert "left out: 1 file (1 .rtf)" in caplog.text
    assert "of 2 texts, 8 values after a last window left out" in caplog.text


def test_text_goes_there_and_back(tmp_path):
    text = "".join(f"{i:03d} größer; " for i in range(200))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    parts = from_text(tmp_path / "a.txt", length=28, test=0.25)
    assert parts.train.x.shape[1:] == (28, 8) and set(np.unique(parts.train.x)) == {0, 1}
    found = [piece for part in parts for piece in text_of(Scale(0, 1).forward(part.x))]
    assert sorted(found) == sorted(text[i : i + 24] for i in range(0, len(text), 24))
    assert text_of(np.full((1, 2, 8), 1.0)) == ["\ufffd\ufffd"]
    np.testing.assert_array_equal(parts.train.x[0, 0], [int(b) for b in f"{ord('0'):08b}"])


def test_texts_of_a_folder_and_none(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name * 50)
    parts = from_text(tmp_path, length=10, test=2)
    assert "".join(sorted(p[0] for part in parts for p in text_of(part.x))) == "aaaaabbbbb"
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.txt"):
        from_text(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="50 values are shorter than one window of 51"):
        from_text(tmp_path / "a.txt", length=51)


def test_characters_of_an_alphabet_go_there_and_back(tmp_path):
    text = "".join(f"größer {i % 3} ∇\r\n" for i in range(300))
    (tmp_path / "a.txt").write_bytes(text.encode())
    alphabet = alphabet_of(tmp_path / "a.txt")
    assert alphabet == "".join(sorted(set(text))) and 8 < len(alphabet) <= 16
    parts = from_text(tmp_path / "a.txt", length=24, test=0.25, alphabet=alphabet)
    assert parts.train.x.shape[1:] == (24, 4)
    found = [piece for part in parts for piece in text_of(Scale(0, 1).forward(part.x), alphabet)]
    assert sorted(found) == sorted(text[i : i + 24] for i in range(0, len(text), 24))
    place = alphabet.index(text[0])
    first = parts.train.x[0, 0]
    np.testing.assert_array_equal(first, [int(b) for b in f"{place:04b}"])
    assert text_of(np.ones((1, 2, 4)), alphabet) == ["\ufffd\ufffd"]
    assert text_of(np.ones((1, 2, 1)), "a") == ["\ufffd\ufffd"] and text_of(-np.ones((1, 1, 1)), "a") == ["a"]


def test_texts_outside_of_the_alphabet_are_unreadable(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 20)
    (tmp_path / "b.txt").write_text("abd" * 20)
    (tmp_path / "c.txt").write_bytes(b"\xff" * 60)
    parts = from_text(tmp_path, length=10, test=2, alphabet="abc", on_error="skip")
    reasons = [bad.reason for bad in parts.train.unreadable]
    assert reasons[0] == "1 characters are not in the alphabet, for example 'd'" and "UnicodeDecodeError" in reasons[1]
    with pytest.raises(ValueError, match=r"2 of 3 files cannot be read"):
        from_text(tmp_path, length=10, alphabet="abc")


def test_flac_is_read_as_wav(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", np.stack([tone(8000) + 0.1, tone(8000) - 0.3], 1), 8000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.flac", 8000), tone(8000) - 0.1, atol=2e-4)
    np.testing.assert_allclose(read_audio(tmp_path / "a.flac", 4000)[500:-500], tone(4000)[500:-500] - 0.1, atol=1e-3)
