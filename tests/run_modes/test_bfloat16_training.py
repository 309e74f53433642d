"""Training in bfloat16 learns what training in float32 does: the digits, two hundred steps, the same draws."""

import json

import jax
import numpy as np
import pytest

import run_lib
from configs.digits import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

STEPS = 200


def losses(directory, dtype):
    """The means of the training loss over five steps each, of the digits' network after the learning rate's rise."""
    config = get_config()
    config.network.dtype = dtype
    config.optimizer.warmup_steps = 20
    config.training.update(num_steps=STEPS, log_every=5, eval_every=0, sample_every=0, checkpoint_every=STEPS)
    with jax.enable_x64(False):
        assert run_lib.train(config, directory, devices=jax.devices()[:1])
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return np.array([line["loss"] for line in lines if "loss" in line])


@pytest.mark.slow
def test_bfloat16_reaches_the_loss_of_float32(tmp_path):
    """Within 2 % over the last 50 steps, where the loss is a fifth of the first; and the two are not the same."""
    exact, rounded = losses(tmp_path / "float32", None), losses(tmp_path / "bfloat16", "bfloat16")
    assert len(exact) == len(rounded) == STEPS // 5
    last, first = np.mean(exact[-10:]), exact[0]
    print(f"float32 {last:.4f}, bfloat16 {np.mean(rounded[-10:]):.4f}, at first {first:.4f}")
    assert last < 0.5 * first
    assert 1e-6 < abs(np.mean(rounded[-10:]) / last - 1) < 0.02
