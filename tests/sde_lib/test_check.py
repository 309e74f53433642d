"""`check_sde`: every process shipped agrees with itself, and no contradiction that a user may write goes unseen."""

import dataclasses
import functools
import re

import jax.numpy as jnp
import pytest

from sde_lib import expand
from sde_lib.check import SDECheckError, check_sde
from sde_lib.node import Scalar
from tests.contracts import DIAGONAL, SDES

PROCESSES = SDES | DIAGONAL
NO_DRIFT = {"ve", "edm", "discrete_ve"}  # f = 0 and α = 1: no factor and no power changes them


def data_of(name):
    return {"data_std": PROCESSES[name].scales} if name in DIAGONAL else {}


def failure(sde, **kwargs):
    """The report of a process that has to fail."""
    with pytest.raises(SDECheckError) as caught:
        check_sde(sde, verbose=False, **kwargs)
    assert all(str(row) in str(caught.value) for row in caught.value.report.failed)
    return caught.value.report


def names(report):
    return {row.name for row in report.failed}


@pytest.mark.parametrize("name", PROCESSES)
def test_shipped_processes_agree_with_themselves(name):
    report = check_sde(PROCESSES[name], verbose=False, **data_of(name))
    assert not report.failed and not report.not_reached and len(report.rows) >= 25


@functools.cache
def mutant(cls):
    """`cls` with every method pinned to what it is, but for a factor or a power on each; they are leaves, so that one
    compilation serves all mutations."""

    class Mutant(cls):
        rate_factor: Scalar = 1.0
        keep_x: Scalar = 1.0
        g_factor: Scalar = 1.0
        g_power: Scalar = 1.0
        sigma_power: Scalar = 1.0
        contraction_power: Scalar = 1.0
        snr_factor: Scalar = 1.0
        std_factor: Scalar = 1.0
        draw_factor: Scalar = 1.0
        temperature: Scalar = 1.0
        logp_shift: Scalar = 0.0
        reverse_factor: Scalar = -1.0
        flow_factor: Scalar = -0.5

        @property
        def origin(self):
            return cls(**{f.name: getattr(self, f.name) for f in dataclasses.fields(cls)})

        def alpha(self, t):
            return self.origin.alpha(t)

        def sigma(self, t):
            return self.origin.sigma(t) ** self.sigma_power

        def log_snr(self, t):
            return self.snr_factor * 2 * jnp.log(self.alpha(t) / self.sigma(t))

        def drift_rate(self, t):
            return self.rate_factor * self.origin.drift_rate(t)

        def diffusion(self, t):
            return self.g_factor * self.origin.diffusion(t) ** self.g_power

        def drift(self, x, t):
            return expand(self.drift_rate(t), x) * (self.keep_x * x + (1 - self.keep_x))

        def contraction(self, t, s):
            return self.origin.contraction(t, s) ** self.contraction_power

        def prior_std(self):
            return self.std_factor * self.origin.prior_std()

        def prior_sample(self, keys, shape):
            return self.draw_factor * super().prior_sample(keys, shape)

        def prior_logp(self, x):
            return super().prior_logp(x) / self.temperature + self.logp_shift

        def reverse_drift(self, x, t, score):
            return self.drift(x, t) + self.reverse_factor * expand(self.diffusion(t), x) ** 2 * score

        def flow_drift(self, x, t, score):
            return self.drift(x, t) + self.flow_factor * expand(self.diffusion(t), x) ** 2 * score

    return Mutant


RATE, NOISE, DRIFT = "drift_rate = d log α/dt", "diffusion² = dσ²/dt − 2 f σ²", "drift(x, t) = f(t) x"
DRAWS, DENSITY = "KL(marginal at t_max ‖ prior_sample)", "KL(marginal at t_max ‖ prior_logp)"
STEIN, NORM = "Stein's identity for prior_sample and prior_logp", "∫ exp(prior_logp) dx = 1"

# name: (what is changed, {row that fails: what its hint says}, where nothing changes)
MUTATIONS = {
    "drift_rate's sign": (
        {"rate_factor": -1.0},
        {RATE: r"drift_rate\(t\) is -1.00 times d log α/dt at every t: look at drift_rate"},
        NO_DRIFT,
    ),
    "drift_rate doubled": (
        {"rate_factor": 2.0},
        {RATE: "is 2.00 times d log α/dt at every t: look at drift_rate"},
        NO_DRIFT,
    ),
    "g² for g": ({"g_power": 2.0}, {NOISE: r"diffusion\(t\) is g², and should be its root: look at diffusion$"}, ()),
    "g doubled": ({"g_factor": 2.0}, {NOISE: r"is 4.00 times dσ²/dt − 2 f σ² at every t: look at diffusion"}, ()),
    "g times √2": ({"g_factor": 2**0.5}, {NOISE: "is 2.00 times .* at every t: look at diffusion"}, ()),
    "g off by 1 %": ({"g_factor": 1.01}, {NOISE: "is 1.02 times .* at every t: look at diffusion"}, ()),
    "σ² for σ": ({"sigma_power": 2.0}, {NOISE: r"sigma\(t\) is σ², and should be its root: look at sigma$"}, ()),
    "drift without x": ({"keep_x": 0.0}, {DRIFT: "is the rate alone, not times x: look at drift"}, NO_DRIFT),
    "contraction upside down": (
        {"contraction_power": -1.0},
        {"contraction(t, s) = α(t)/α(s)": "look at contraction"},
        NO_DRIFT,
    ),
    "log_snr of σ and not of σ²": ({"snr_factor": 0.5}, {"log_snr = log α²/σ²": "look at log_snr"}, ()),
    "prior_std doubled": (
        {"std_factor": 2.0},
        {DRAWS: r"look at prior_sample \(prior_std\)", DENSITY: r"look at prior_logp \(prior_std\)"},
        (),
    ),
    "prior_std halved": (
        {"std_factor": 0.5},
        {DRAWS: r"look at prior_sample \(prior_std\)", DENSITY: r"look at prior_logp \(prior_std\)"},
        (),
    ),
    "prior_sample too wide": (
        {"draw_factor": 1.5},
        {DRAWS: "look at prior_sample", STEIN: "of different laws: look at prior_sample"},
        (),
    ),
    "prior_logp too wide": (
        {"temperature": 2.0},
        {STEIN: "of different laws: look at prior_logp", DENSITY: "look at prior_logp"},
        (),
    ),
    "prior_logp without its constant": (
        {"logp_shift": 90.0},
        {NORM: "is 90 nats too large .*: look at prior_logp"},
        (),
    ),
    "reverse_drift's sign": (
        {"reverse_factor": 1.0},
        {"reverse_drift = f − g² score": "with 1.00 g², and should with -1.00 g²: look at reverse_drift"},
        (),
    ),
    "flow_drift without ½": (
        {"flow_factor": -1.0},
        {"flow_drift = f − ½ g² score": "with -1.00 g², and should with -0.50 g²: look at flow_drift"},
        (),
    ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_mutations_are_seen_and_named(name):
    """One method changed and the others pinned: the rows that fail are those of that method, and say so."""
    sde, kwargs = PROCESSES[name], data_of(name)
    fields = {f.name: getattr(sde, f.name) for f in dataclasses.fields(sde)}
    build = lambda **change: mutant(type(sde))(**fields, **change)  # noqa: E731
    assert not check_sde(build(), verbose=False, **kwargs).failed
    for mutation, (change, expected, unchanged) in MUTATIONS.items():
        if name in unchanged:
            continue
        report = failure(build(**change), **kwargs)
        assert names(report) == set(expected), (mutation, report)
        for row in report.failed:
            assert re.search(expected[row.name], row.hint), (mutation, row)


if __name__ == "__main__":
    pass
