"""The benchmarks run: with so little of everything that their numbers mean nothing but that they are there."""

import numpy as np
import pytest

from benchmarks import likelihood_training, overhead
from tests.test_run_lib import usual_promotion as usual_promotion


@pytest.mark.slow
def test_training_for_likelihood():
    rows = likelihood_training.main(steps=2, examples=4)
    assert set(rows) == {"sigma2", "likelihood", "elbo"} and all(np.isfinite(value) for value, _ in rows.values())


@pytest.mark.slow
def test_overhead(capsys):
    overhead.main(repeats=1, names=["digits"], steps=2)
    assert capsys.readouterr().out.count("| digits |") == 4
