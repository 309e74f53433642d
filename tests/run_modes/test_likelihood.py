"""Bits per dimension of a work directory: the model's own numbers, kept batch by batch, in the report."""

import json
import signal

import jax
import numpy as np
import pytest

import run_lib
from config_lib.spec import ConfigError, spec
from data_lib import Identity, Scale, from_arrays, gather
from run_modes import bits
from sde_lib import Fixed, Likelihood, LogSNRGrid, nats_to_bits
from tests.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("usual_promotion")

DATA = from_arrays(np.random.default_rng(0).integers(0, 17, size=(60, 3)).astype(np.uint8), test=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory of two steps on three numbers from 0 to 16, and its config."""
    directory, config = tmp_path_factory.mktemp("trained") / "run", get_config()
    config.shape, config.transform = (3,), spec(Scale, low=0.0, high=16.0)
    config.training.update(num_steps=2, batch_size=8, log_every=0, eval_every=0, sample_every=0)
    config.eval.batch_size = 8
    config.eval.likelihood = spec(Likelihood, solver=Fixed(grid=LogSNRGrid(), num_steps=12), to_data=True)
    del config.eval["report"], config.eval["features"]
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(config, directory, DATA, devices=jax.devices()[:1])
    config.eval.bpd.update(split="test", elbo_times=16)
    return directory, config


@pytest.mark.slow
def test_the_report_holds_the_models_numbers(run):
    """Over the whole split, in batches that do not divide it, on one device and on eight."""
    directory, config = run
    model, x = run_lib.load(directory, config), gather(DATA.test, np.arange(20))["x"]
    flow = np.asarray(model.bits_per_dim(jax.random.key(0), x))
    bound = nats_to_bits(model.elbo(jax.random.key(0), x, 16, np.arange(17)).value, 3)
    for devices in (jax.devices()[:1], jax.devices()):
        config.eval.likelihood.solver.num_steps = 12
        report = run_lib.evaluate(directory, config=config, dataset=DATA, devices=devices)["bits"]
        assert report["count"] == 20 and report["nfe"] == 48
        for name, values in (("flow", flow), ("elbo", np.asarray(bound))):
            np.testing.assert_allclose(report[name]["mean"], np.mean(values), rtol=1e-4)
            np.testing.assert_allclose(report[name]["error"], np.std(values) / np.sqrt(20), rtol=1e-3)
        np.testing.assert_allclose(np.load(directory / "eval" / "bits_test.npz")["samples"][:, 0], flow, rtol=1e-3)
        for path in (directory / "eval" / "shards").glob("*/*"):
            path.unlink()
    saved = json.loads((directory / "eval" / "report.json").read_text())["bits"]
    assert saved == report
    line = (directory / "eval" / "report.md").read_text()
    assert f"{report['flow']['mean']:.4f} ± {report['flow']['error']:.4f} bits/dim by the flow" in line


def test_a_stop_keeps_what_was_done(run, monkeypatch, capsys):
    directory, config = run
    config.eval.bpd.update(split="train", count=20, elbo_times=0)
    whole = run_lib.evaluate(directory, config=config, dataset=DATA, devices=jax.devices()[:1])["bits"]
    for path in (directory / "eval" / "shards").glob("bits_train*/*"):
        path.unlink()
    real, seen = bits.require_finite, []

    def stop_in_the_second_batch(rows, first, *why):
        seen.append(first)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        real(rows, first, *why)

    with monkeypatch.context() as patched:
        patched.setattr(bits, "require_finite", stop_in_the_second_batch)
        assert run_lib.evaluate(directory, config=config, dataset=DATA, devices=jax.devices()[:1]) is None
        assert seen == [0, 8] and "stopped after 16 of 20 examples" in capsys.readouterr().out
        again = run_lib.evaluate(directory, config=config, dataset=DATA, devices=jax.devices()[:1])["bits"]
    assert seen == [0, 8, 16] and again == whole and "elbo" not in again


def test_other_data_of_the_same_shape_are_not_taken_for_these(run):
    directory, config = run
    config.eval.bpd.update(split="test", count=8, elbo_times=0)
    one = jax.devices()[:1]
    low, high = (from_arrays(np.full((60, 3), value, np.uint8), test=20) for value in (8, 16))
    first, second = (run_lib.evaluate(directory, config=config, dataset=d, devices=one)["bits"] for d in (low, high))
    assert first["flow"] != second["flow"]
    assert run_lib.evaluate(directory, config=config, dataset=low, devices=one)["bits"] == first


def test_refusals(run, tmp_path):
    directory, config = run
    config.eval.bpd.update(split="validation", count=0, elbo_times=0)
    with pytest.raises(ConfigError, match=r"config.eval.bpd.split is 'validation': expected one of test, train"):
        run_lib.evaluate(directory, config=config, dataset=DATA)
    config.eval.bpd.split = "test"
    real = from_arrays(np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32))
    with pytest.raises(ConfigError, match=r"config.eval.bpd: .*expected an integer type, got float32"):
        run_lib.evaluate(directory, config=config, dataset=real, devices=jax.devices()[:1])
    config.transform, config.eval.bpd.elbo_times = spec(Identity), 8
    with jax.numpy_dtype_promotion("standard"):
        run_lib.train(config, tmp_path / "other", DATA, devices=jax.devices()[:1])
    with pytest.raises(ConfigError, match=r"the ELBO requires the levels of the data, which Identity does not specify"):
        run_lib.evaluate(tmp_path / "other", config=config, dataset=DATA, devices=jax.devices()[:1])
