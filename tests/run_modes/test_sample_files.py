"""Samples as single files: what another program reads from them is what was drawn."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from data_lib import Bits, Identity, Scale, Waveform, form_of
from run_modes.sample_files import write_samples

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_images(tmp_path, channels, capsys):
    x = RNG.integers(0, 256, (12, 5, 7, channels), dtype=np.uint8)
    write_samples(tmp_path / "new" / "folder", x, form_of(Scale(), x.shape[1:]))
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.name for file in files[:2]] == ["000000.png", "000001.png"] and len(files) == 12
    for one, file in zip(x, files, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)).reshape(one.shape), one)
    assert capsys.readouterr().out == f"12 samples as png files: {tmp_path / 'new' / 'folder'}\n"


def test_sounds(tmp_path):
    """At the rate of the data; full scale is ±1, and what is beyond it is clipped and not wrapped around."""
    x = np.array([[0.0, 0.5, -0.5, 1.0, -1.0, 1.7]], np.float32)[..., None]
    write_samples(tmp_path, x, form_of(Waveform(rate=8000), x.shape[1:]))
    rate, found = wavfile.read(tmp_path / "000000.wav")
    assert rate == 8000 and found.dtype == np.int16
    np.testing.assert_allclose(found / 32767, x[0, :, 0].clip(-1, 1), atol=1 / 32767)


@pytest.mark.parametrize("alphabet", ["", "abcdé"])
def test_texts(tmp_path, alphabet):
    """Bits of bytes, or of places in an alphabet."""
    text = "aébcd"
    codes = np.frombuffer(text.encode(), np.uint8) if not alphabet else np.array([alphabet.index(c) for c in text])
    bits = 8 if not alphabet else 3
    x = (codes[:, None] >> np.arange(bits)[::-1] & 1) + 0.4 * RNG.uniform(-1, 1, (len(codes), bits))
    write_samples(tmp_path, x[None].astype(np.float32), form_of(Bits(alphabet=alphabet), x.shape))
    assert (tmp_path / "000000.txt").read_text() == text


def test_other_data_are_arrays(tmp_path):
    x = RNG.normal(size=(3, 2)).astype(np.float32)
    write_samples(tmp_path, x, form_of(Identity(), x.shape[1:]))
    np.testing.assert_array_equal(np.stack([np.load(file) for file in sorted(tmp_path.iterdir())]), x)
