"""The transition density of a step against the step's own samples and against the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, DiagonalVP
from sde_lib.particles.transition import GaussianStep, check_transition, log_ratio, transition
from sde_lib.solvers import DDIM, Ancestral, Euler, EulerMaruyama, PredictorCorrector, ReverseDiffusion
from tests.helpers import keys

SDES = {"vp": VP(), "ve": VE(), "diagonal": DiagonalVP(scales=jnp.asarray([0.5, 2.0]))}
STDS = {
    "em": (EulerMaruyama(), lambda sde, t, s: sde.diffusion(t) * jnp.sqrt(t - s)),
    "ancestral": (Ancestral(), lambda sde, t, s: sde.sigma(s) * sde.transition(t, s).sigma / sde.sigma(t)),
    "large": (Ancestral(large_variance=True), lambda sde, t, s: sde.transition(t, s).sigma),
    "ddim": (DDIM(eta=0.5), lambda sde, t, s: 0.5 * sde.sigma(s) * sde.transition(t, s).sigma / sde.sigma(t)),
    "reverse": (ReverseDiffusion(), lambda sde, t, s: sde.transition(t, s).sigma),
}


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("name", STDS)
def test_std_and_mean_are_those_of_the_step(name, sde):
    (solver, std), sde, t, s = STDS[name], SDES[sde], jnp.asarray(0.6), jnp.asarray(0.55)
    x = jax.random.normal(jax.random.key(1), (3, 2))
    score = jnp.sin(x)
    found = transition(solver, x, t, s, sde, score)
    expected = np.broadcast_to(np.asarray(std(sde, t, s)), (1, 2))
    np.testing.assert_allclose(found.std, expected, rtol=1e-9)
    state = solver.step(keys(3, 5), solver.init(x), t, s, sde, lambda x, t: score)
    z = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys(3, 5))
    np.testing.assert_allclose(found.mean + found.std * z, state.x, rtol=1e-9)


def test_log_ratio_is_that_of_the_densities():
    x, mean, other = jax.random.normal(jax.random.key(2), (3, 4, 2))
    std = jnp.asarray([[0.3, 2.0]])
    logs = [jnp.sum(jax.scipy.stats.norm.logpdf(x, m, std), axis=1) for m in (mean, other)]
    found = log_ratio(x, GaussianStep(mean, std), GaussianStep(other, std))
    np.testing.assert_allclose(found, logs[0] - logs[1], rtol=1e-10)


@pytest.mark.parametrize("solver", [DDIM(), Euler(), PredictorCorrector()])
def test_other_steps_are_refused(solver):
    with pytest.raises(TypeError, match=r"has no Gaussian transition density: its .* there are EulerMaruyama"):
        check_transition(solver, VP(), (2,), jnp.asarray(0.6), jnp.asarray(0.5))
