"""check_solver: the orders of all solvers, what it refuses, and with which numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, DiagonalVP, LogSNRGrid, SolverCheckError, check_solver, expand
from sde_lib.check import solver as check
from sde_lib.check.solver import SolverReport
from sde_lib.noise import normal_like
from sde_lib.solvers import DDIM, Euler, EulerMaruyama, Heun, Solver, SolverState
from tests.contracts import CORRECTED, FAST_FLOW, FAST_NOISY, STEPPERS, DoubleWell

QUICK = ("heun", "ddim", "euler_maruyama", "unipc2")  # and euler below
ORDERS = {name: found for name, found in (STEPPERS | FAST_FLOW).items()}
ORDERS |= {name: (solver, 2) for name, solver in FAST_NOISY.items() if name not in ("edm_churn", "sde_dpm++3m")}


@pytest.fixture
def few_draws(monkeypatch):
    """Fewer draws of each c_k, whose error drops out of the order; and fewer samples, from which `allowed` follows."""
    monkeypatch.setattr(check, "DRAWS", 64)
    monkeypatch.setattr(check, "SAMPLES", 2**12)


@pytest.mark.parametrize(
    ("solver", "order"),
    [pytest.param(*ORDERS[n], id=n, marks=[] if n in QUICK else pytest.mark.slow) for n in ORDERS],
)
def test_the_order_of_every_solver(solver, order):
    """The table's, within 0.25, where the solver starts without a past; and the distribution at the end is right."""
    report = check_solver(solver, order=order, verbose=False)
    assert abs(report.order - order) < 0.25 and all(law.ok for law in report.laws), report
    assert report.nfe == solver.nfe and not report.failed


@pytest.mark.slow
def test_an_error_of_two_orders_is_measured_between_them():
    """SDE-DPM-Solver++(3M): the mean is of order 3, the variance of order 2 with a small factor."""
    report = check_solver(FAST_NOISY["sde_dpm++3m"], verbose=False)
    assert 1.75 < report.order < 3 and all(law.ok for law in report.laws)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pc_expected", "pc_annealed", "pc_none"])
def test_predictor_and_corrector_end_at_the_right_distribution(name):
    assert all(law.ok for law in check_solver(CORRECTED[name], verbose=False).laws)


@pytest.mark.slow
def test_another_process_and_grid():
    report = check_solver(Heun(), order=2, sde=VE(t_min=0.5, sigma_max=20.0), grid=LogSNRGrid(), verbose=False)
    assert report.title.endswith("VE(t_min=0.5, t_max=1.0, sigma_min=0.01, sigma_max=20.0)")


def test_a_solver_of_one_step_rule_is_a_line_of_text(capsys):
    report = check_solver(Euler(), order=1)
    assert isinstance(report, SolverReport) and capsys.readouterr().out.strip() == str(report)
    lines = str(report).splitlines()
    assert lines[0].startswith("Euler() on VP(") and "(strong, of the end point); 32 steps: " in lines[1]
    assert lines[2:3] == ["1 evaluations of the score per step"] and all(line.startswith("ok") for line in lines[3:])


# Mistakes: each is a solver with one factor wrong.


class Wrong(Solver):
    """Euler–Maruyama, and without noise Euler's rule, with factors of the drift, the score and the noise."""

    drift: float = 1.0
    score: float = 1.0
    noise: float = 1.0

    nfe = 1

    def step(self, keys, state, t, s, sde, score_fn):
        x, dt, share = state.x, s - t, jnp.where(self.noise > 0, 1.0, 0.5)
        g = expand(sde.diffusion(t), x)
        change = self.drift * sde.drift(x, t) - share * self.score * g**2 * score_fn(x, t)
        mean = x + expand(dt, x) * change
        return SolverState(mean + self.noise * g * expand(jnp.sqrt(-dt), x) * normal_like(keys, x), mean)


FACTORS = [{"drift": -1.0, "noise": 0.0}, {"drift": 2.0}, {"score": 0.5}, {"noise": 2.0**0.5}]  # and, slow:
MORE = [{"drift": 2.0, "noise": 0.0}, {"score": 2.0, "noise": 0.0}, {"score": -1.0, "noise": 0.0}, {"drift": -1.0}]
MORE += [{"score": 2.0}, {"noise": 2.0}, {"noise": 0.5}]


@pytest.mark.parametrize("factors", FACTORS + [pytest.param(f, marks=pytest.mark.slow) for f in MORE], ids=str)
def test_a_wrong_factor_is_found(few_draws, factors):
    with pytest.raises(
        SolverCheckError, match="expected the exact mean and deviation of the normal at the end"
    ) as caught:
        check_solver(Wrong(**factors), verbose=False)
    assert not caught.value.report.laws[0].ok


def test_right_factors_pass(few_draws):
    for factors in ({}, {"noise": 0.0}):
        assert abs(check_solver(Wrong(**factors), order=1, verbose=False).order - 1) < 0.25


def test_the_error_names_the_order_that_was_expected_and_measured(few_draws):
    with pytest.raises(SolverCheckError, match=r"^Euler\(\) on VP\(.*\): expected order 2, within 0\.25, got 1\.00$"):
        check_solver(Euler(), order=2, verbose=False)
    with pytest.raises(SolverCheckError, match=r"expected weak order 2, within 0\.25, got 1\.\d\d$"):
        check_solver(EulerMaruyama(), order=2, verbose=False)


class CountsWrong(Heun):
    nfe = 1


class LosesSecondOrder(Heun):
    """The second slope at t in place of s."""

    def step(self, keys, state, t, s, sde, score_fn):
        x, dt = state.x, expand(s - t, state.x)
        now = sde.flow_drift(x, t, score_fn(x, t))
        end = x + dt * now
        x = x + 0.5 * dt * (now + sde.flow_drift(end, t, score_fn(end, t)))
        return SolverState(x, x)


class Explodes(Euler):
    def step(self, keys, state, t, s, sde, score_fn):
        return SolverState(state.x * jnp.nan, state.x)


def test_other_mistakes(few_draws):
    for solver, message in (
        (CountsWrong(), "expected 1 evaluations of the score per step, as its `nfe` says, got 2"),
        (LosesSecondOrder(), r"expected order 2, within 0\.25, got 1\."),
        (Explodes(), "expected the exact mean and deviation of the normal at the end, within .*, got nan"),
    ):
        with pytest.raises(SolverCheckError, match=message):
            check_solver(solver, order=2, verbose=False)
    with pytest.raises(TypeError, match="DDIM needs alpha and sigma of the SDE, which DoubleWell lacks"):
        check_solver(DDIM(), sde=DoubleWell())


def test_a_process_that_cannot_be_measured_on_is_refused():
    with pytest.raises(ValueError, match="check_solver requires a process with a kernel, whose coordinates are alike"):
        check_solver(Euler(), sde=DoubleWell())
    with pytest.raises(ValueError, match="whose coordinates are alike; got DiagonalVP"):
        check_solver(Euler(), sde=DiagonalVP(scales=np.ones(3)))


class ClipsStart(EulerMaruyama):
    def step(self, keys, state, t, s, sde, score_fn):
        x = 20 * jnp.tanh(state.x / 20)
        return super().step(keys, SolverState(x, x), t, s, sde, score_fn)


@pytest.mark.slow
def test_a_solver_that_is_not_linear_is_measured_by_samples():
    report = check_solver(ClipsStart(), verbose=False)
    assert report.noisy and set(report.errors) == {8, 16, 32}
    assert np.isnan(report.order) or abs(report.order - 1) < 0.5


def test_it_works_without_float64_and_leaves_the_setting_alone(few_draws):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        report = check_solver(DDIM(eta=0.0), order=1, verbose=False)
        assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32
    assert abs(report.order - 1) < 0.1
