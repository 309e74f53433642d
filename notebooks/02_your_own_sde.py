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
# # 2 · Your own SDE
#
# **At the end** you have defined forward processes of your own in three ways, found a mistake in one by a check, and
# trained, sampled and computed likelihoods with another, without a change in the rest of the code. It takes two minutes
# on two cores.
#
# A forward process $dx = f(x, t)\, dt + g(t)\, dw$ is used in many places: in the loss, in every solver, in the prior,
# in the likelihood. Each needs another function of it. They are all derived from the two that you write.

# %% tags=["parameters"]
num_steps = 3000
num_samples = 2000

# %% [markdown]
# ## By the kernel
#
# You know $p(x_t \mid x_0) = \mathcal N(\alpha(t) x_0, \sigma(t)^2 I)$. Then $f = x\, d\log\alpha/dt$ and
# $g^2 = d\sigma^2/dt - 2 \sigma^2 d\log\alpha/dt$ follow by automatic differentiation.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from sde_lib import GaussianSDE, check_sde


class Cosine(GaussianSDE):
    """α = cos(π t/2), σ = sin(π t/2). It ends a little before t = 1, where α is 0 and f infinite."""

    t_max: float = 0.995

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * t)

    def sigma(self, t):
        return jnp.sin(0.5 * jnp.pi * t)


sde = Cosine()
derived_g = float(sde.diffusion(0.5))
exact_g = float(jnp.sqrt(jnp.pi * jnp.tan(jnp.pi / 4)))  # g² = π tan(π t/2), by hand
print(f"g(0.5) = {derived_g:.6f}, by hand {exact_g:.6f}")
report = check_sde(sde)

# %% [markdown]
# `check_sde` compares the methods of the process with each other, at times over the whole of it.
#
# ## A mistake, and what finds it
#
# You may also write $f$ and $g$ yourself. The usual mistake is a factor, a sign, or $g^2$ for $g$:

# %%
from sde_lib import VP, SDECheckError


class Wrong(VP):
    def diffusion(self, t):
        return 0.1 + 19.9 * t  # this is g²


complaint = ""
try:
    check_sde(Wrong(), verbose=False)
except SDECheckError as error:
    complaint = str(error)
print(complaint)

# %% [markdown]
# ## By the coefficients
#
# You know $f(x, t) = f(t)\, x$ and $g(t)$. Quadrature gives $\alpha$ and $\sigma$. Here are VP's coefficients, so both
# can be compared with its closed forms.

# %%
from sde_lib import LinearSDE


class Coefficients(LinearSDE):
    beta_min: float = 0.1
    beta_max: float = 20.0

    def drift_rate(self, t):
        return -0.5 * (self.beta_min + (self.beta_max - self.beta_min) * t)

    def diffusion(self, t):
        return jnp.sqrt(-2 * self.drift_rate(t))


t = jnp.linspace(0.01, 1.0, 100)
quadrature = max(
    float(jnp.max(jnp.abs(getattr(Coefficients(), f)(t) - getattr(VP(), f)(t)))) for f in ("alpha", "sigma")
)
print(f"largest difference in α and σ: {quadrature:.1e}")

# %% [markdown]
# ## By any drift
#
# Where the drift is not linear there is no kernel. The score is then learned from simulated paths, and the prior is
# fitted to where they end: see [the guide](../docs/own_sde.md), which trains the double well $f = x - x^3$.
#
# ## Training with the first
#
# `config.sde` is one entry of a config. Two moons, a small network:

# %%
from sklearn.datasets import make_moons

import run_lib
from config_lib.spec import spec
from configs.points import get_config
from data_lib import from_arrays
from eval_lib import sliced_wasserstein_distance

x = make_moons(4000, noise=0.05, random_state=0)[0].astype("float32")
config = get_config()
config.sde = spec(Cosine)
config.training.num_steps = num_steps
config.training.log_every = num_steps // 10
done = run_lib.train(config, f"own_sde_{num_steps}", from_arrays(x[:2000]))
model = run_lib.load(f"own_sde_{num_steps}")
model

# %% [markdown]
# After a restart of the kernel, run the cell that defines `Cosine` before `run_lib.load`: the class is code, and the
# directory holds only its name. (If its methods have changed since, `load` says so.)

# %%
samples = model.sample(jax.random.key(0), num_samples)
half = min(num_samples, 2000)
distance = sliced_wasserstein_distance(samples[:half], x[2000 : 2000 + half])
floor = sliced_wasserstein_distance(x[:half], x[2000 : 2000 + half])
print(f"sliced W2 of samples and new data {distance:.3f}; of data and new data {floor:.3f}")

# %% [markdown]
# ## The process forward and backward

# %%
from sde_lib import sample_keys, simulate_path

keys = sample_keys(jax.random.key(1), jnp.arange(1000))
times = jnp.linspace(0.0, sde.t_max, 5)
forward = jax.jit(lambda: simulate_path(keys, sde, jnp.asarray(x[:1000]), times))()
times_back, back = jax.jit(lambda: model.sampler.path(keys, model.sde, model.score, (2,)))()
figure = plt.figure(figsize=(11, 4.4), layout="constrained")
rows = figure.subplots(2, 5, sharex=True, sharey=True)
for k, time in enumerate(times):
    nearest = int(np.argmin(np.abs(np.asarray(times_back) - float(sde.t_max - time))))
    for axes, states, at in ((rows[0, k], forward[1][k], time), (rows[1, k], back[nearest], times_back[nearest])):
        axes.scatter(*np.asarray(states).T, s=1)
        axes.set(title=f"{'forward' if axes is rows[0, k] else 'reverse'}, t = {float(at):.2f}", aspect="equal")

# %% [markdown]
# ## The likelihood follows too
#
# The probability flow of the same process gives $\log p(x)$, with an estimate of the solver's error. New points of the
# moons must be more likely than points moved off them.

# %%
new, off = x[2000:2100], x[2000:2100] + np.array([0.0, 0.6], "float32")
on_moons, off_moons = (float(np.mean(model.log_prob(jax.random.key(2), points).value)) for points in (new, off))
print(f"log p: {on_moons:.2f} nats on the moons, {off_moons:.2f} nats 0.6 above them")

# %% [markdown]
# Next: [samplers, error against evaluations](03_samplers.ipynb). All signatures: [docs/plugs.md](../docs/plugs.md).
