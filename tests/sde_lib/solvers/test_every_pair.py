"""Every sampler with every process, on exact scores: an anisotropic Gaussian in 64 dimensions, five modes in two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sde_lib import AdaptiveSDE, GaussianMixture, GaussianSDE, gaussian, sample_keys
from sde_lib.noise import fold
from tests.contracts import CLOSED, DIAGONAL, QUICK, SAMPLERS, SDES, OneOf, together

DIM = 64
WIDE = gaussian(jnp.linspace(-1, 1, DIM, dtype=jnp.float32), jnp.linspace(0.3, 1.5, DIM, dtype=jnp.float32))
ANGLES = 2 * np.pi * np.arange(5) / 5
FIVE = GaussianMixture(
    means=1.2 * jnp.asarray(np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1), jnp.float32),
    stds=jnp.full((5, 2), 0.1, jnp.float32),
    weights=jnp.full(5, 0.2, jnp.float32),
)
LAST_LOG_SNR = 7.0  # σ/α = 0.03 at the end


class Fair(GaussianSDE):
    """A process whose prior is the marginal of the data at t_max: what is left is the sampler's own error."""

    sde: GaussianSDE
    data: GaussianMixture

    def alpha(self, t):
        return self.sde.alpha(t)

    def sigma(self, t):
        return self.sde.sigma(t)

    def drift_rate(self, t):
        return self.sde.drift_rate(t)

    def diffusion(self, t):
        return self.sde.diffusion(t)

    def log_snr(self, t):
        return self.sde.log_snr(t)

    def prior_sample(self, keys, shape):
        x0 = self.data.sample(fold(keys, 0))
        return self.sde.perturb(fold(keys, 1), x0, jnp.full(len(keys), self.t_max))[0]


def ending(sampler, t_end):
    """The sampler with its end at t_end."""
    if hasattr(sampler, "grid"):
        return sampler.replace(grid=sampler.grid.replace(t_end=t_end))
    return sampler.replace(t_end=t_end)


@functools.partial(jax.jit, compiler_options=QUICK)
def draw(sampler, keys, sde, data):
    """(samples of p at the end, that time, α and σ there)."""
    t_end = sde.time_of_log_snr(jnp.asarray(LAST_LOG_SNR))
    fair = Fair(sde=sde, data=data, t_min=sde.t_min, t_max=sde.t_max)
    x = ending(sampler, t_end)(keys, fair, data.score_fn(sde), data.means.shape[1:])
    return x, sde.alpha(t_end), sde.sigma(t_end)


ONE_OF_A_KIND = ("euler_maruyama", "pc_published", "unipc3", "probability_flow_ode")


def dear(name):
    """Adaptive paths of noise cost much more than the scores here."""
    return isinstance(SAMPLERS[name], AdaptiveSDE)


def keys_of(name, count):
    """Of dear ones fewer samples."""
    count = 300 if dear(name) else count
    return sample_keys(jax.random.key(0), jnp.arange(count))


def pairs(core, samplers=tuple(SAMPLERS)):
    """(sampler, SDE): `samplers` with `core` in `make test`, all of them, and the dear, in `make test-all`."""
    sdes = together({name: SDES[name] for name in CLOSED})
    sdes |= {name: sde for name, sde in (SDES | DIAGONAL).items() if name not in CLOSED}
    if len(core) == 1:  # which `make test` runs alone: a smaller program than that of all of them
        sdes |= {core[0]: SDES[core[0]]}
    return [
        pytest.param(
            sampler,
            sde,
            id=f"{sampler}-{name}",
            marks=[] if name in core and sampler in samplers and not dear(sampler) else pytest.mark.slow,
        )
        for sampler in SAMPLERS
        for name, sde in sdes.items()
    ]


@pytest.mark.parametrize("name, sde", pairs(("subvp",), ONE_OF_A_KIND))
def test_a_gaussian(name, sde):
    """Mean and variance of each coordinate within 4.5 standard errors, and 0.03 for the bias that finite steps leave;
    the coordinates independent; a Kolmogorov–Smirnov test of one."""
    x, alpha, sigma = (np.asarray(value) for value in draw(SAMPLERS[name], keys_of(name, 1000), sde, WIDE))
    count, std = len(x), np.hypot(alpha * np.asarray(WIDE.stds[0]), sigma).reshape(-1)
    z = (x - (alpha * np.asarray(WIDE.means[0])).reshape(-1)) / std
    assert np.all(np.abs(z.mean(axis=0)) < 4.5 / np.sqrt(count) + 0.03)
    assert np.all(np.abs(z.std(axis=0) - 1) < 4.5 / np.sqrt(2 * count) + 0.03)
    assert np.abs(np.corrcoef(z.T) - np.eye(DIM)).max() < 5.5 / np.sqrt(count)
    centered = (z - z.mean(axis=0)) / z.std(axis=0)
    assert stats.kstest(centered[:, 7], "norm").pvalue > 1e-4


@pytest.mark.parametrize(
    "name, sde", [pair for pair in pairs(("vp",), ("ddim", "seeds2", "dpm3")) if "diagonal" not in pair.id]
)
def test_modes_of_a_mixture(name, sde):
    """Five equal modes: a chi-square test of the counts, and the distance to the nearest, a Rayleigh variable of the
    modes' own width, by its mean square and its 95th percentile."""
    x, alpha, sigma = (np.asarray(value) for value in draw(SAMPLERS[name], keys_of(name, 1000), sde, FIVE))
    distance = np.linalg.norm(x[:, None] - alpha * np.asarray(FIVE.means)[None], axis=-1)
    assert stats.chisquare(np.bincount(distance.argmin(axis=1), minlength=5)).pvalue > 1e-4
    square = (distance.min(axis=1) / np.hypot(0.1 * alpha, sigma)) ** 2 / 2  # exponential, of mean 1
    assert abs(square.mean() - 1) < 4.5 / np.sqrt(len(x)) + 0.08
    assert abs(np.quantile(square, 0.95) / 3.0 - 1) < 0.25


@pytest.mark.slow
def test_the_processes_are_themselves():
    """What stands for a process here has its α, σ, drift and diffusion."""
    for name, stand_in in together({name: SDES[name] for name in CLOSED}).items():
        assert isinstance(stand_in, OneOf)
        for t in (0.3, 0.8):
            for method in ("alpha", "sigma", "drift_rate", "diffusion"):
                ours, its = (jax.jit(getattr(sde, method))(jnp.asarray(t)) for sde in (stand_in, SDES[name]))
                np.testing.assert_allclose(ours, its, rtol=1e-9, err_msg=f"{name}.{method}")
