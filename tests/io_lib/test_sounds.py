import numpy as np
import pytest
from PIL import Image

from io_lib.sounds import in_sequence, read_wav, save_picture, save_preview, wav_bytes, write_wav

RATE = 8000
X = np.random.default_rng(0).uniform(-1, 1, 1001)


@pytest.mark.parametrize("x", [X, X[:1000].reshape(500, 2), X[:1]])
def test_a_wav_file_holds_the_sound_to_half_a_step_and_its_rate(tmp_path, x):
    assert write_wav(tmp_path / "a.wav", x, 11_025) == 0
    rate, back = read_wav(tmp_path / "a.wav")
    assert rate == 11_025 and back.shape == x.shape and back.dtype == np.float32
    np.testing.assert_allclose(back, x, rtol=0, atol=2**-16)
    assert write_wav(tmp_path / "b.wav", back, rate) == 0  # what was read is written as it is
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_what_is_beyond_full_scale_is_clipped_and_counted(tmp_path):
    x = np.array([0.0, 1.0, -1.0, 1.5, -1.00001, 0.99999])
    assert write_wav(tmp_path / "a.wav", x, RATE) == 2
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[1], x.clip(-1, 1 - 2**-15), atol=2**-16)


@pytest.mark.parametrize("x, rate, message", [
    (np.zeros((2, 3, 4)), RATE, r"\[length\] or \[length, channels\], got shape \(2, 3, 4\)"),
    (np.zeros(0), RATE, r"got shape \(0,\)"),
    (np.array([0.0, np.nan, np.inf]), RATE, "finite values, got 2 of 3 that are not"),
    (np.zeros(4), 0, "a rate of at least 1 value per second, got 0"),
])  # fmt: skip
def test_what_is_no_sound_is_refused_and_leaves_no_file(tmp_path, x, rate, message):
    with pytest.raises(ValueError, match=message):
        write_wav(tmp_path / "a.wav", x, rate)
    assert not list(tmp_path.iterdir())


def test_a_preview_plays_the_sounds_in_sequence_and_says_what_it_changed(tmp_path, caplog):
    x = np.stack([0.5 * np.sin(2 * np.pi * f * np.arange(2000) / RATE) for f in np.linspace(100, 900, 20)])
    files = save_preview(tmp_path / "step.1", x, RATE)
    assert [file.name for file in files] == ["step.1.png", "step.1.wav"] and not caplog.text
    rate, sound = read_wav(files[1])
    assert rate == RATE and len(sound) == 16 * 4000
    np.testing.assert_allclose(sound.reshape(16, 4000)[:, :2000], x[:16], atol=2**-16)
    assert not sound.reshape(16, 4000)[:, 2000:].any()
    save_preview(tmp_path / "bad", np.array([[np.nan, 2.0, 0.0, -3.0]]), RATE)
    assert "of 4 values, 2 were beyond full scale and clipped, 1 not finite" in caplog.text


def test_the_picture_shows_a_tone_at_its_frequency(tmp_path):
    """The brightest row of the picture's spectrogram is higher for the higher tone."""
    rows = []
    for f in (300, 3000):
        save_picture(tmp_path / "a.png", np.sin(2 * np.pi * f * np.arange(4096) / RATE)[None], RATE)
        with Image.open(tmp_path / "a.png") as picture:
            gray = np.asarray(picture.convert("RGB")).astype(float)
        column = gray[gray.shape[0] // 2 : -60, gray.shape[1] // 3]
        rows.append(int(np.argmax(column[:, 0] - (column.min(1) > 250) * 1e3)))
    assert rows[0] > rows[1] + 20


@pytest.mark.parametrize("x", [np.zeros((1, 3)), np.ones((7, 100)), np.zeros((2, 1))])
def test_silence_constants_and_single_values_are_drawn(tmp_path, x):
    save_picture(tmp_path / "a.png", x, RATE)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 100
    assert wav_bytes(in_sequence(x, RATE), RATE)[1] == 0
