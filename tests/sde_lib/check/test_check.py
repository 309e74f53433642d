"""`check_sde`: every process shipped agrees with itself, and no contradiction that a user may write goes unseen."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import SDE, VE, VP, OrnsteinUhlenbeck, RectifiedFlow, SubVP, expand
from sde_lib.check import SDECheckError, check_sde
from sde_lib.node import Scalar
from sde_lib.noise import normal
from tests.contracts import DIAGONAL, SDES, quick

# As they are, these leave more than 1 % of the data at t_max, which a contract of another kind does not mind.
SHORT = {
    "vp_slow": (SDES["vp_slow"], {"beta_max": 20.0}, "0.072 of"),
    "cosine": (SDES["cosine"], {"t_max": 0.995}, "0.016 of"),
    "coefficients": (SDES["coefficients"], {"t_max": 0.995}, "0.016 of"),
    "diagonal_vp": (DIAGONAL["diagonal_vp"], {"speeds": np.linspace(1.0, 1.3, 64)}, "0.03 of"),
}
PROCESSES = SDES | DIAGONAL | {name: sde.replace(**change) for name, (sde, change, _) in SHORT.items()}
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


# In `make test` the others pass in tests below: VP as it is; sub-VP, VE and the one known by its coefficients as
# mutants that nothing changes.
@pytest.mark.parametrize("name, sde", quick(("learned", *DIAGONAL), PROCESSES))
def test_shipped_processes_agree_with_themselves(name, sde):
    report = check_sde(sde, verbose=False, **data_of(name))
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

        def alpha_ts(self, t, s):
            return self.origin.alpha_ts(t, s) ** self.contraction_power

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
GONE = "the data are gone at t_max"
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
    "g times √2": (
        {"g_factor": 2**0.5},
        {NOISE: "is 2.00 times .* at every t: look at diffusion"},
        {"ornstein_uhlenbeck"},  # there g = √2, so that √2 g is g², and is reported as that
    ),
    "g off by 1 %": ({"g_factor": 1.01}, {NOISE: "is 1.02 times .* at every t: look at diffusion"}, ()),
    "σ² for σ": ({"sigma_power": 2.0}, {NOISE: r"sigma\(t\) is σ², and should be its root: look at sigma$"}, ()),
    "drift without x": ({"keep_x": 0.0}, {DRIFT: "is the rate alone, not times x: look at drift"}, NO_DRIFT),
    "alpha_ts upside down": (
        {"contraction_power": -1.0},
        {"alpha_ts(t, s) = α(t)/α(s)": "look at alpha_ts"},
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
        {DRAWS: "look at prior_sample", STEIN: "have different distributions: look at prior_sample"},
        (),
    ),
    "prior_logp too wide": (
        {"temperature": 2.0},
        {STEIN: "have different distributions: look at prior_logp", DENSITY: "look at prior_logp"},
        (),
    ),
    "prior_logp without its constant": (
        {"logp_shift": 90.0},
        {NORM: "is 90 nats too large .*: look at prior_logp"},
        (),
    ),
    "reverse_drift's sign": (
        {"reverse_factor": 1.0},
        {"reverse_drift = f − g² score": "is 1.00 g², and should be -1.00 g²: look at reverse_drift"},
        (),
    ),
    "flow_drift without ½": (
        {"flow_factor": -1.0},
        {"flow_drift = f − ½ g² score": "is -1.00 g², and should be -0.50 g²: look at flow_drift"},
        (),
    ),
}


@pytest.mark.parametrize("name, sde", quick(("subvp", "ve"), PROCESSES))
def test_mutations_are_seen_and_named(name, sde):
    """One method changed and the others pinned: the rows that fail are those of that method, and say so."""
    kwargs = data_of(name)
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


def test_undetectable_mutations():
    """Where a mutation is no mutation: f = 0 has no sign, no double and no x to forget."""
    for name in NO_DRIFT:
        sde, t = PROCESSES[name], jnp.linspace(0.1, 0.9, 9)
        assert not np.any(sde.drift_rate(t)) and np.all(sde.alpha_ts(t, t[::-1]) == 1)


@pytest.mark.parametrize("cls", [VP, RectifiedFlow])
def test_a_wrong_rate_is_named_where_g_is_derived_from_it(cls):
    """g² = dσ²/dt − 2 f σ² is then wrong as well, or negative, and f is to blame."""

    class Wrong(cls):
        def drift_rate(self, t):
            return -super().drift_rate(t)

    failed = failure(Wrong()).failed
    assert failed[0].name == RATE and "look at drift_rate" in failed[0].hint
    assert not any("look at diffusion" in row.hint or "look at sigma" in row.hint for row in failed)


def test_cancellation_in_float32_is_named():
    class Naive(VP):
        def sigma(self, t):
            return jnp.sqrt(1 - jnp.exp(-(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2)))

    report = failure(Naive())
    hints = {row.name: row.hint for row in report.failed}
    assert "look at sigma; −expm1(−x) keeps the digits" in hints["sigma in float32"]
    assert names(report) <= {"sigma in float32", "diffusion in float32"} and "the prior" in report.not_reached


def test_a_table_read_by_index_is_named():
    """At single times both rates are 0 and so are both slopes; over the whole interval they are not."""

    class Steps(VP):
        def alpha(self, t):
            return super().alpha((jnp.floor(jnp.asarray(t) * 50) + 0.5) / 50)

    assert "look at alpha" in str(failure(Steps(t_min=1e-3)))

    class RateOnly(VP):
        def alpha(self, t):
            return super().alpha(jax.lax.stop_gradient(jnp.asarray(t)))

    assert names(failure(RateOnly())) == {RATE}


def test_ends_and_prior_of_the_process():
    class Early(VP):
        t_max: Scalar = 0.4

    failed = failure(Early(), data_std=3.0)
    assert names(failed) >= {GONE, DRAWS, DENSITY} and "or at t_max" in str(failed)
    assert "look at sigma, or at t_min" in str(failure(VP(t_min=0.05)))
    x0 = np.random.default_rng(0).normal(size=(500, 2, 3)) * 400
    report = failure(VP(), data=x0)
    assert names(report) == {DRAWS, DENSITY} and "event shape (2, 3)" in str(report)
    assert not check_sde(VP(), data=x0 / 400, verbose=False).failed


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "diagonal_vp" else pytest.mark.slow) for n in SHORT])
def test_what_is_left_of_the_data_is_a_failure_with_its_number(name):
    sde, _, message = SHORT[name]
    report = failure(sde, **data_of(name))
    assert names(report) >= {GONE} and message in str(report)


@pytest.mark.parametrize(
    ("sde", "message", "reached"),
    [
        (VP(t_max=0.1), "0.95 of the data's deviation is left at t_max = 0.1", 0.238),
        (VP(beta_max=1.0), "0.76 of the data's deviation is left at t_max = 1", 0.470),
        pytest.param(SubVP(t_max=0.5), "0.28 of", 0.637, marks=pytest.mark.slow),
        pytest.param(OrnsteinUhlenbeck(t_max=1.0), "0.37 of", 0.618, marks=pytest.mark.slow),
    ],
)
def test_data_with_a_mean_and_another_deviation(sde, message, reached):
    """N(0, 1) is stationary under VP, whatever t_max; samples of N(m, s²) have the mean m − (α s/√(α² s² + σ²)) m."""
    failed = {row.name: row.hint for row in failure(sde, shape=(2,)).failed}
    assert message in failed[GONE] and "t_max or the noise (beta_max" in failed[GONE]
    hint = failed["the same for data of mean 0.7 and deviation 0.3"]
    low, *high = re.search(r"sampled with mean ([\d.]+)(?: to ([\d.]+))?", hint).groups()
    np.testing.assert_allclose([float(low), float(high[0] or low)], reached, atol=0.01)


def test_noise_that_only_grows_must_hide_the_data():
    assert names(failure(VE(sigma_max=5.0), shape=(2,))) >= {GONE}
    assert not check_sde(VE(sigma_max=10.0), shape=(2,), data_std=0.5, verbose=False).failed


def test_a_prior_that_is_two_per_cent_too_wide():
    class Wide(VP):
        def prior_std(self):
            return 1.02

    report = failure(Wide(), shape=(2,))
    assert names(report) == {"the prior's moments are the marginal's"} and "deviation 1.02" in str(report)
    assert "mean 0 and deviation 1, the marginal at t_max 0.0131" in str(failure(VP(), shape=(2,), data_mean=2.0))


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("sigma", lambda self, t: math.sqrt(t), "under jit sigma raises .*: look at sigma"),
        ("sigma", lambda self, t: t if t > 0.5 else 2 * t, "under jit sigma raises .*: look at sigma"),
        ("alpha", lambda self, t: jnp.ones(2), r"alpha has shape \(2,\) for times of shape \(3,\).*look at alpha"),
        ("drift", lambda self, x, t: x * t, "under jit drift raises .*: look at drift"),
        ("drift", lambda self, x, t: jnp.sum(x, axis=1), r"drift has shape \(3,\) for x of shape \(3, 4\)"),
        ("prior_sample", lambda self, keys, shape: jnp.zeros(shape), "prior_sample has shape"),
        ("prior_logp", lambda self, x: jnp.sum(x), r"prior_logp has shape \(\) for x"),
        (
            "prior_sample",
            lambda self, keys, shape: jax.random.normal(keys[0], (len(keys), *shape)),
            "the keys in another order give other draws: look at prior_sample",
        ),
    ],
)
def test_methods_that_cannot_be_used(method, body, message):
    broken = type("Broken", (VP,), {method: body})
    assert re.search(message, str(failure(broken())), re.DOTALL)


def test_without_float64():
    """Float64 is switched on inside, and off again."""
    with jax.enable_x64(False):
        assert not check_sde(VP(), verbose=False).failed
        assert jnp.ones(1).dtype == jnp.float32


def test_report_is_printed(capsys):
    report = check_sde(VP())
    printed = capsys.readouterr().out
    assert printed.strip() == str(report) and "VP, event shape (4,)" in printed and RATE in printed
    with pytest.raises(SDECheckError, match="look at sigma"):
        check_sde(VP(t_min=0.05))
    assert "FAIL" in capsys.readouterr().out


class Wells(SDE):
    """dx = (x − x³) dt + dw, from N(0, 1) to nearly N(0, 0.94²) at t = 1, with factors to spoil it by."""

    pull: Scalar = 1.0
    noise: Scalar = 1.0
    prior_std: Scalar = 0.94
    logp_std: Scalar = 0.94
    logp_shift: Scalar = 0.0
    score_factor: Scalar = -1.0

    def drift(self, x, t):
        return self.pull * (x - x**3)

    def diffusion(self, t):
        return self.noise

    def prior_sample(self, keys, shape):
        return self.prior_std * normal(keys, shape)

    def prior_logp(self, x):
        logp = -0.5 * (x / self.logp_std) ** 2 - jnp.log(self.logp_std) - 0.5 * math.log(2 * math.pi)
        return jnp.sum(logp, axis=1) + self.logp_shift

    def reverse_drift(self, x, t, score):
        return self.drift(x, t) + self.score_factor * expand(self.diffusion(t), x) ** 2 * score


PATHS = "simulated paths end as prior_sample draws"


@pytest.mark.parametrize(
    ("change", "rows", "hint"),
    [
        ({"prior_std": 1.88, "logp_std": 1.88}, {PATHS}, "look at prior_sample, at drift, or at t_max"),
        ({"prior_std": 0.47, "logp_std": 0.47}, {PATHS}, "look at prior_sample"),
        ({"prior_std": 1.88}, {PATHS, STEIN}, "different distributions: look at prior_sample"),
        ({"logp_std": 1.2}, {STEIN}, "different distributions: look at prior_logp"),
        ({"logp_shift": 2.0}, {NORM}, r"2.0\d nats too large everywhere: look at prior_logp"),
        ({"pull": -1.0}, {"simulated paths stay finite"}, "blow up at t = .*: look at drift"),
        ({"noise": 3.0}, {PATHS}, "look at prior_sample, at drift"),
        ({"noise": -1.0}, {"diffusion in float32"}, "it is -1.*look at diffusion"),
        ({"noise": math.nan}, {"diffusion in float32"}, "it is nan.*look at diffusion"),
        ({"score_factor": 1.0}, {"reverse_drift = f − g² score"}, "look at reverse_drift"),
    ],
)
def test_a_process_without_a_kernel(change, rows, hint):
    report = failure(Wells(**change))
    assert names(report) == rows and re.search(hint, str(report))


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (lambda self, x, t: jnp.sum(x - x**3, axis=1), r"drift has shape \(3,\) for x of shape \(3, 4\)"),
        (lambda self, x, t: t * (x - x**3), "under jit drift raises .*: look at drift"),
        (lambda self, x, t: x - x**3 - jnp.mean(x, axis=0, keepdims=True), "its own x and t alone .*: look at drift"),
        (lambda self, x, t: x - x**3 * jnp.mean(t), "its own x and t alone .*: look at drift"),
    ],
)
def test_a_drift_that_mixes_rows_or_shapes(drift, message):
    assert re.search(message, str(failure(type("Broken", (Wells,), {"drift": drift})())), re.DOTALL)


def test_data_start_the_paths():
    """Normal data and data at ±1 end in both wells; data all at 1 do not fit a centered prior."""
    assert not check_sde(Wells(), verbose=False).failed
    x0 = np.random.default_rng(0).choice([-1.0, 1.0], size=(400, 4))
    assert not check_sde(Wells(), data=x0, verbose=False).failed
    assert names(failure(Wells(), data=np.ones((400, 4)))) == {PATHS}
