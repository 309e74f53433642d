"""The benchmarks run, with very little of everything; and what they measure by is what it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    data,
    evaluation_memory,
    likelihood_training,
    long_run,
    networks,
    overhead,
    posterior,
    resampling,
    sampler_problems,
    samplers,
)
from sde_lib.exact import FullMixture

pytestmark = pytest.mark.usefixtures("usual_promotion")


@pytest.mark.slow
def test_training_for_likelihood():
    rows = likelihood_training.main(steps=2, examples=4)
    assert set(rows) == {"sigma2", "likelihood", "sigma2_bound", "elbo"}
    assert all(np.isfinite(value) for value, _ in rows.values())


@pytest.mark.slow
def test_overhead(capsys):
    overhead.main(repeats=1, names=["digits"], steps=2)
    assert capsys.readouterr().out.count("| digits |") == 4


def test_distance_of_a_shift():
    """W₁ between a set and its shift is the shift along each direction."""
    generator = np.random.default_rng(0)
    x, directions, shift = generator.normal(size=(50, 3)), generator.normal(size=(7, 3)), np.asarray([0.3, -2.0, 0.5])
    distance = sampler_problems.sliced_wasserstein(np.repeat(x, 4, axis=0), directions)
    np.testing.assert_allclose(distance(x + shift), np.mean(np.abs(directions @ shift)), rtol=1e-12)
    assert distance(generator.permutation(x)) == 0


@pytest.mark.slow
def test_quality_of_samplers(capsys):
    """A fast solver beats the published one at 10 evaluations; what is measured is not measured again."""
    problem = sampler_problems.PROBLEMS["mixture_2d"](None)._replace(budgets=(10,))
    names, results = ("predictor–corrector, as published", "UniPC 2"), {}
    rows = [row for row in samplers.settings(problem, long=False) if row[0] in names]
    samplers.measure(problem, rows, results)
    ratios = {name: results["rows"][name]["10"][1] for name in names}
    assert ratios["UniPC 2"] < 0.5 * ratios["predictor–corrector, as published"]
    assert capsys.readouterr().out.count("10 evaluations") == 2
    samplers.measure(problem, rows, results)
    assert not capsys.readouterr().out
    assert all(f"| {name} | {samplers.number(ratio)} |" in samplers.markdown(results) for name, ratio in ratios.items())


@pytest.mark.slow
def test_data():
    """Arrays come faster than files, and whole batches faster than one example after another."""
    rates = dict(data.measure(count=300, steps=3))
    assert rates["batches of folder in memory"] > 3 * rates["batches of folder at each use"]
    assert rates["batches of arrays"] > 2 * rates["grain: arrays"]
    assert rates["plain loop: arrays"] > 3 * rates["plain loop: folder at each use"]


@pytest.mark.slow
def test_memory_of_evaluation():
    """Ten times as many images, 55 MB more of them: within 8 MB of the same memory."""
    few, many = (evaluation_memory.measure(n, width=32) for n in (2_000, 20_000))
    assert few > 100 and many - few < 8


@pytest.mark.slow
def test_long_runs_do_not_leak_and_never_trace_again(tmp_path):
    """The short version: of 60 steps and 10 calls, 12 and 2 are for warming up."""
    found = list(long_run.measure(tmp_path / "run", steps=60, calls=10))
    assert [part.traces for part in found] == [0, 0] and all(part.is_steady() for part in found), list(map(str, found))


def test_a_leak_and_a_trace_are_seen():
    numbers = [(90, 3), (100, 5), *[(104, 5)] * 8]
    assert long_run.held("x", numbers) == ("x", 100, 104, 0) and long_run.held("x", numbers).is_steady()
    assert not long_run.held("x", [*numbers[:-1], (106, 5)]).is_steady()
    assert not long_run.held("x", [*numbers[:-1], (104, 6)]).is_steady()


@pytest.mark.slow
def test_long_runs_in_full(tmp_path):
    """2,000 steps and 200 calls, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.long_run"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and "traced 0 times" in done.stdout, done.stdout + done.stderr


HLO = """
%fused_computation (p0: f32[2,3]) -> f32[3,2] {
  %p0 = f32[2,3]{1,0} parameter(0)
  ROOT %t = f32[3,2]{1,0} transpose(%p0), dimensions={1,0}
}

ENTRY %main (x: f32[2,3], w: f32[3,5], i: f32[4,8,8,6], k: f32[3,3,6,7]) -> f32[4,8,8,7] {
  %x = f32[2,3]{1,0} parameter(0)
  %w = f32[3,5]{1,0} parameter(1)
  %i = f32[4,8,8,6]{3,2,1,0} parameter(2)
  %k = f32[3,3,6,7]{3,2,1,0} parameter(3)
  %f = f32[3,2]{1,0} fusion(%x), kind=kLoop, calls=%fused_computation
  %d = bf16[2,5]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %c = f32[4,8,8,7]{3,2,1,0} convolution(%i, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}
"""


def test_operations_of_a_program():
    """2 · 2 · 5 · 3 for the product, 2 · 4 · 8² · 7 · 3² · 6 for the convolution; what is fused writes nothing."""
    found = networks.operations(HLO)
    assert found["dot"] == (1, 2 * 5 * 2, 60.0)
    assert found["convolution"] == (1, 4 * 64 * 7 * 4, 2.0 * 4 * 64 * 7 * 9 * 6)
    assert found["transpose (fused)"] == (1, 0, 0.0) and found["fusion"] == (1, 24, 0.0)


CALLS = """
  %x = f32[4,8,8,6]{3,2,1,0} parameter(0)
  %k = f32[7,3,3,6]{3,2,1,0} parameter(1)
  %y = (f32[4,4,4,7]{3,2,1,0}, u8[9]{0}) custom-call(%x, %k), LABELS, custom_call_target="__cudnn$convForward"
  %dy = f32[4,4,4,7]{3,2,1,0} get-tuple-element(%y), index=0
  %dx = (f32[4,8,8,6]{3,2,1,0}, u8[9]{0}) custom-call(%dy, %k), LABELS, custom_call_target="__cudnn$convBackwardInput"
  %dk = (f32[7,3,3,6]{3,2,1,0}, u8[9]{0}) custom-call(%x, %dy), LABELS, custom_call_target="__cudnn$convBackwardFilter"
  %b = bf16[4,8,8,6]{3,2,1,0} convert(%x)
""".replace("LABELS", "window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f")


def test_operations_of_a_program_for_a_gpu():
    """A convolution and both of its gradients multiply as often: once for each entry of y and weight to one of its."""
    found = networks.operations(CALLS)
    for name, size in (("Forward", 4 * 4 * 4 * 7), ("BackwardInput", 4 * 8 * 8 * 6), ("BackwardFilter", 7 * 9 * 6)):
        assert found[f"custom-call cudnn$conv{name}"] == (1, 4 * size, 2.0 * (4 * 4 * 4 * 7) * 9 * 6)
    assert found["convert"] == (1, 2 * 4 * 8 * 8 * 6, 0.0)


def test_resampling(capsys):
    """Slices and convolution are one map."""
    rows = resampling.main(batch=2, repeats=1, calls=1, sizes=((6, 4),), dtypes=("float32",))
    assert [row[:2] for row in rows] == list(resampling.WAYS) and all(row[-1] < 1e-6 for row in rows)
    assert capsys.readouterr().out.count("| 6² | 4 | float32 |") == 4


@pytest.mark.slow
def test_networks(capsys):
    config = networks.load_config("configs/digits.py")
    config.network.update(nf=8, num_res_blocks=1)
    networks.main(config, batch=2, repeats=1)
    out = capsys.readouterr().out
    assert "| forward | 2 | float32 |" in out and "| step | 2 | float32 |" in out and "| convolution" in out


def test_exact_draws_of_the_posterior():
    """The low-rank draws of `posterior.exact` have the moments of FullMixture's posterior."""
    problem = posterior.problem(8, "project")
    data, A, y = problem.data, problem.matrix, problem.y[0]
    covariances = np.broadcast_to(posterior.STD**2 * np.eye(8), (25, 8, 8))
    full = FullMixture(means=data.means, covariances=covariances, weights=data.weights)
    expected = full.posterior(A, y, problem.noise_std)
    x = posterior.exact(data, A, y, problem.noise_std, 20_000, seed=0)
    weights, means = np.asarray(expected.weights), np.asarray(expected.means)
    center = weights @ means
    within = np.einsum("k,kij->ij", weights, np.asarray(expected.covariances))
    covariance = within + (means - center).T @ np.diag(weights) @ (means - center)
    assert np.all(np.abs(x.mean(axis=0) - center) < 5 * np.sqrt(np.diag(covariance) / len(x)))
    np.testing.assert_allclose(np.cov(x.T), covariance, rtol=0, atol=0.05 * np.max(covariance))
