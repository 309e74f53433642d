"""A value that follows another one may still be set: flags in either order give what they say."""

from itertools import permutations

import pytest

from config_lib.command_line import apply_overrides
from configs import digits, points
from configs.own_data import with_data


@pytest.mark.parametrize("get_config", [points.get_config, digits.get_config])
def test_the_end_of_the_decay_follows_the_number_of_steps(get_config):
    follow = apply_overrides(get_config(), ["--config.training.num_steps=6"])
    assert (follow.training.num_steps, follow.optimizer.decay_steps) == (6, 6)
    alone = apply_overrides(get_config(), ["--config.optimizer.decay_steps=12"])
    assert alone.optimizer.decay_steps == 12
    assert alone.training.num_steps == get_config().training.num_steps


@pytest.mark.parametrize(
    "flags", list(permutations(["--config.training.num_steps=6", "--config.optimizer.decay_steps=12"]))
)
@pytest.mark.parametrize("get_config", [points.get_config, digits.get_config])
def test_both_in_either_order(get_config, flags):
    config = apply_overrides(get_config(), flags)
    assert (config.training.num_steps, config.optimizer.decay_steps) == (6, 12)


def test_setting_in_a_config_file():
    config = points.get_config()
    config.optimizer.decay_steps = 12
    config.training.num_steps = 6
    assert (config.training.num_steps, config.optimizer.decay_steps) == (6, 12)


def test_the_shape_of_images_read_from_a_folder_follows_the_shape(tmp_path):
    from PIL import Image

    for k in range(20):
        Image.new("RGB", (9, 9), (k, 0, 0)).save(tmp_path / f"{k}.png")
    config = with_data(digits.get_config(), str(tmp_path))
    apply_overrides(config, ["--config.shape=(4, 4, 3)"])
    assert tuple(config.data.shape) == (4, 4, 3)
    other = apply_overrides(with_data(digits.get_config(), str(tmp_path)), ["--config.data.shape=(5, 5, 1)"])
    assert tuple(other.shape) == tuple(digits.get_config().shape) != (5, 5, 1)
