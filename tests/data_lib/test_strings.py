"""Strings: a function of seed and index, equal to the sum of damped harmonics, with the stated laws."""

import numpy as np
import pytest

from data_lib import gather, strings
from data_lib.strings import DAMPED, NOISE_STD, Pluck, Strings, pitch, random_pluck, sound


def test_a_function_of_seed_and_index():
    data, more = strings(count=5, test=3), strings(count=8, test=1)
    parts = [gather(source, np.arange(len(source))) for source in (*data, more.train)]
    for key in ("x", "label"):
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts[:2]]), parts[2][key])
    x = parts[2]["x"]
    assert x.shape == (8, 4096, 1) and x.dtype == np.float32 and parts[2]["label"].dtype == np.int32
    other = gather(strings(count=5, seed=1).train, np.arange(5))["x"]
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(x[:5], other, strict=True))
    with pytest.raises(IndexError, match="expected an index from 0 to 2, got 3"):
        data.test[3]


@pytest.mark.parametrize("length, rate", [(4096, 8000), (1001, 8000), (1, 8000), (2000, 22_050)])
def test_the_product_of_powers_is_the_sum_of_damped_harmonics(length, rate):
    one, t = Pluck(semitone=7, brightness=1.3, decay=0.2, gain=0.6), np.arange(length) / rate
    f = 110 * 2 ** (7 / 12)
    x = np.zeros(length)
    for k in range(1, 1 + int(0.95 * rate / 2 / f)):
        decay = np.exp(-t * (1 + (k * f / DAMPED) ** 2) / 0.2)
        x += np.sin(k * np.pi / 5) / k**1.3 * decay * np.sin(2 * np.pi * k * f * t)
    if length > 1:
        np.testing.assert_allclose(sound(one, length, rate), 0.6 * x / np.abs(x).max(), atol=1e-11)


def test_noise_and_parameters_follow_their_laws():
    found = [random_pluck(np.random.default_rng(i)) for i in range(2000)]
    error = 4 * np.sqrt(1 / 12 / 2000)
    uniform = {
        "semitone": (np.array([one.semitone for one in found]) + 0.5) / 24,
        "brightness": np.array([one.brightness for one in found]) - 1,
        "decay": np.log(np.array([one.decay for one in found]) / 0.1) / np.log(5),
        "gain": (np.array([one.gain for one in found]) - 0.3) / 0.6,
    }
    for name, u in uniform.items():
        assert u.min() >= 0 and u.max() <= 1 and abs(u.mean() - 0.5) < error, name
    source = Strings(50)
    pure = np.stack([sound(random_pluck(np.random.default_rng((0, i))), 4096, 8000) for i in range(50)])
    noise = gather(source, np.arange(50))["x"][..., 0] - pure
    assert abs(noise.std() / NOISE_STD - 1) < 4 / np.sqrt(2 * noise.size)


def test_octaves_double_and_rates_without_harmonics_are_refused():
    np.testing.assert_allclose(pitch(np.array([0, 12, 24])), [110, 220, 440])
    with pytest.raises(ValueError, match="strings: expected a rate above 874, got 800"):
        strings(rate=800)
