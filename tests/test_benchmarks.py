"""The benchmarks run, with very little of everything; and what they measure by is what it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data, evaluation_memory, likelihood_training, long_run, overhead, sampler_problems, samplers
from tests.test_run_lib import usual_promotion as usual_promotion


@pytest.mark.slow
def test_training_for_likelihood():
    rows = likelihood_training.main(steps=2, examples=4)
    assert set(rows) == {"sigma2", "likelihood", "elbo"} and all(np.isfinite(value) for value, _ in rows.values())


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
