# %% tags=["install"]
SOURCE = ".."  # the project's folder, or the address of its git repository

import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("run_lib") is None:
    folder = SOURCE if os.path.isdir(SOURCE) else "score-sde-jax"
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--depth=1", SOURCE, folder], check=True)
    pins = "constraints-newest.txt" if sys.version_info >= (3, 12) else "constraints.txt"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", folder, "-c", f"{folder}/{pins}"], check=True)

# %% [markdown]
# # 4 · Likelihoods and their error budget
#
# **At the end** you have log densities of single examples, with the parts of their error next to the true error; bits
# per dimension of discrete data next to the exact number; and the density of a trained network, which integrates to
# one. It takes two minutes on two cores.
#
# Along the probability flow $dx/dt = F(x, t)$ a density changes by $-\nabla \cdot F$. So
#
# $$ \log p(x_0) = \log \pi(x_T) + \int_0^T \nabla \cdot F(x_t, t)\, dt $$
#
# ([Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 39), where $\pi$ is the prior.

# %% tags=["parameters"]
num_steps = 3000
count = 200
cells = 100

# %% [markdown]
# ## Where the answer is known
#
# The data are a mixture of two normals in the plane. Its score under VP, and its density, have closed forms.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from sde_lib import VP, Adaptive, Exact, GaussianMixture, Hutchinson, Likelihood, sample_keys

sde = VP()
data = GaussianMixture(
    means=jnp.array([[-1.0, 0.5], [0.8, -0.3]]), stds=jnp.array([[0.5, 0.4], [0.4, 0.6]]), weights=jnp.array([0.4, 0.6])
)
score = data.score_fn(sde)
keys = sample_keys(jax.random.key(0), jnp.arange(count))
x = data.sample(keys)
truth = data.log_prob(x)


def measured(divergence, tolerance):
    """`LogProb` of x, by this divergence and tolerance of the solver."""
    likelihood = Likelihood(divergence=divergence, solver=Adaptive(rtol=tolerance, atol=tolerance), to_data=True)
    return jax.jit(lambda: likelihood.log_prob(keys, sde, score, x))()


print("tolerance   error   solver's estimate   NFE")
rows = []
for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
    found = measured(Exact(), tolerance)
    misfit = sde.prior_logp(found.z) - data.marginal_log_prob(sde, found.z, sde.t_max)
    error = float(jnp.mean(jnp.abs(found.value - misfit - truth)))
    rows.append((tolerance, error, float(jnp.mean(found.solver)), float(jnp.mean(found.nfe))))
    print("{:9.0e} {:8.1e} {:12.1e} {:12.0f}".format(*rows[-1]))
prior_misfit = float(jnp.mean(jnp.abs(misfit)))
print(f"the prior instead of p at t_max: {prior_misfit:.1e} nats")

# %% [markdown]
# Each row is the mean over examples, in nats. The solver's estimate comes from a coarser solution, so it is available
# for a trained network too. It is only right once the tolerance is small, as the first row shows. What the prior's
# misfit adds is not: there, $p$ at $t_{\max}$ is unknown, and the number is the density of the model, whose prior is
# $\pi$.
#
# In many dimensions the exact divergence is too expensive, and Hutchinson's estimate replaces it: $v^T J v$ with random
# signs $v$. It has no bias, and its standard error over probes is reported:

# %%
few = measured(Hutchinson(probes=8), 1e-4)
exact = measured(Exact(), 1e-4)
rms = lambda values: float(jnp.sqrt(jnp.mean(values**2)))  # noqa: E731
probe_error, probe_estimate = rms(few.value - exact.value), rms(few.probes)
print(f"root mean square, in nats: error {probe_error:.3f}, estimate {probe_estimate:.3f}")

# %% [markdown]
# ## Discrete data
#
# Integers have no density. With bins of width $\Delta$ and $u$ uniform in a bin, $k$ draws bound the probability of the
# bin from below,
#
# $$ \log P(x) \ge \mathbb E \log \tfrac1k \textstyle\sum_j p(x + \Delta u_j) + d \log \Delta, $$
#
# and bits per dimension are $-\log P/(d \log 2)$. Here the exact $P$ is known, as a difference of normal distribution
# functions.

# %%
from scipy.stats import norm

from sde_lib import bits_per_dim

width = 0.5
levels = jnp.round(x / width) * width
edges = np.asarray(levels)[:, None] + np.array([-width / 2, width / 2])[:, None, None, None]
below, above = (norm.cdf(edge, data.means, data.stds) for edge in edges)
exact_bits = float(np.mean(-np.log2(np.prod(above - below, axis=-1) @ np.asarray(data.weights)) / 2))


def bits(draws):
    """Mean bits per dimension of the levels, by this number of draws in each bin."""
    density = lambda keys, x: data.log_prob(x)  # noqa: E731
    return float(jnp.mean(bits_per_dim(keys, density, levels, bin_width=width, samples=draws)))


bounds = {draws: bits(draws) for draws in (1, 4, 16, 64)}
print(f"exact {exact_bits:.4f} bits per dimension")
for draws, bound in bounds.items():
    print(f"{draws:3d} draws: {bound:.4f}")

# %% [markdown]
# ## A trained network
#
# Two moons. The density of the model integrates to one, and nothing in training said so.

# %%
from sklearn.datasets import make_moons

import run_lib
from configs.points import get_config
from data_lib import from_arrays

moons = make_moons(4000, noise=0.08, random_state=0)[0].astype("float32")
config = get_config()
config.training.num_steps = num_steps
config.training.log_every = num_steps // 10
done = run_lib.train(config, f"likelihood_{num_steps}", from_arrays(moons[:2000]))
model = run_lib.load(f"likelihood_{num_steps}")
model = model.replace(likelihood=Likelihood(divergence=Exact(), solver=Adaptive(rtol=1e-3, atol=1e-3), to_data=True))

low, high = np.array([-1.6, -1.1]), np.array([2.6, 1.6])
centers = [np.linspace(a, b, cells + 1)[:-1] + (b - a) / cells / 2 for a, b in zip(low, high)]
grid = np.stack(np.meshgrid(*centers, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")
log_p = np.asarray(model.log_prob(jax.random.key(1), grid).value)
integral = float(np.sum(np.exp(log_p)) * np.prod((high - low) / cells))
new = float(np.mean(model.log_prob(jax.random.key(2), moons[2000 : 2000 + count]).value))
old = float(np.mean(model.log_prob(jax.random.key(2), moons[:count]).value))
print(f"∫ p dx = {integral:.3f}")
print(f"log p: {old:.3f} nats of training examples, {new:.3f} of new ones")
axes = plt.figure(figsize=(6, 3.8), layout="constrained").subplots()
axes.pcolormesh(*centers, np.exp(log_p).reshape(cells, cells).T, cmap="Blues", shading="nearest")
axes.scatter(*moons[2000:2200].T, s=2, color="C1", label="new examples")
axes.set(title="density of the trained model", aspect="equal")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## Codes
#
# The flow is a bijection. `encode` takes data to the prior, `decode` takes them back.

# %%
model = run_lib.load(f"likelihood_{num_steps}")  # with the default tolerance of 1e-5
codes = model.encode(moons[2000 : 2000 + count])
back = model.decode(codes)
round_trip = float(np.max(np.abs(back - moons[2000 : 2000 + count])))
prior_std = float(model.sde.prior_std())
code_std = np.std(np.asarray(codes), axis=0) / prior_std
print(f"decoded codes differ from the data by at most {round_trip:.1e}")
print(f"deviation of the codes in each coordinate, relative to the prior's: {code_std[0]:.3f}, {code_std[1]:.3f}")

# %% [markdown]
# Next: [posterior sampling](05_posterior_sampling.ipynb). All of the error budget, the variational bound and training
# for likelihood: [docs/likelihood.md](../docs/likelihood.md).
