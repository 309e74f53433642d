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
# # 1 · A score in fifty lines
#
# **At the end** you have trained a network to learn the score $\nabla \log p_t(x)$ of data whose score is known
# exactly. You have the two next to each other, samples drawn with each, and the error of both in numbers. It takes a
# minute on two cores.
#
# A forward process turns data into noise. Here it is the variance preserving SDE of
# [Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 11,
#
# $$ dx = -\tfrac12 \beta(t)\, x\, dt + \sqrt{\beta(t)}\, dw, \qquad
#    p(x_t \mid x_0) = \mathcal N(\alpha(t)\, x_0,\ \sigma(t)^2 I). $$
#
# Run backwards, it turns noise into data, if the score of $p_t$ is known. A network learns it from noisy data alone, by
# denoising score matching: at the noise $\varepsilon$ that was added, the best guess of $-\varepsilon/\sigma$ is the
# score.

# %% tags=["parameters"]
num_steps = 5000
num_samples = 20_000

# %% [markdown]
# The data are a mixture of two normals on a line. Then $p_t$ is one too, and its score has a closed form.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from sde_lib import VP, GaussianMixture, sample_keys

sde = VP()
data = GaussianMixture(means=jnp.array([[-1.0], [0.8]]), stds=jnp.array([[0.3], [0.15]]), weights=jnp.array([0.6, 0.4]))
exact_score = data.score_fn(sde)  # (x [B, 1], t) → ∇log p_t(x)
sde

# %% [markdown]
# ## The network, the loss and the training
#
# The network predicts the noise: $s_\theta(x, t) = -F_\theta(x, t)/\sigma(t)$. The loss at a random time $t$ is
# $\tfrac12 \lVert \sigma s_\theta + \varepsilon \rVert^2$. These are all its lines: `MLP`, `dsm_loss` and
# `PredictNoise` are parts that you can replace.

# %%
from functools import partial

import optax

from models import MLP, as_network
from sde_lib import PredictNoise, dsm_loss, make_score_fn

network = as_network(MLP(features=64, num_layers=3))
params = network.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros(1))
tx = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))


def score(params, x, t):
    """s_θ(x, t) for x [B, 1]."""
    return make_score_fn(partial(network, params), sde, PredictNoise())(x, t)


def loss(params, key, x0):
    """Mean of the loss over the batch, at times that are uniform in [t_min, t_max]."""
    keys = sample_keys(key, jnp.arange(len(x0)))
    t = jax.random.uniform(jax.random.fold_in(key, 1), len(x0), minval=sde.t_min, maxval=sde.t_max)
    return jnp.mean(dsm_loss(keys, lambda x, t: score(params, x, t), sde, x0, t))


@jax.jit
def step(params, average, opt_state, key):
    """One step of Adam on 512 new examples, and the average of the parameters over steps (EMA)."""
    x0 = data.sample(sample_keys(jax.random.fold_in(key, 0), jnp.arange(512)))
    value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, 1), x0)
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return params, optax.incremental_update(params, average, 0.005), opt_state, value


opt_state, average, losses = tx.init(params), params, []
for k in range(num_steps):
    params, average, opt_state, value = step(params, average, opt_state, jax.random.fold_in(jax.random.key(1), k))
    losses.append(float(value))
print(f"loss of the last 200 steps: {np.mean(losses[-200:]):.3f}")

# %% [markdown]
# The loss does not go to 0. Its minimum is half the mean variance of the noise given $x_t$, which no network can guess.
# The exact score reaches that minimum, so it shows how far training is from it.

# %%
keys = sample_keys(jax.random.key(2), jnp.arange(100_000))
x0, t = data.sample(keys), jnp.linspace(sde.t_min, sde.t_max, 100_000)
test_keys = sample_keys(jax.random.key(3), jnp.arange(100_000))
learned_loss = float(jnp.mean(dsm_loss(test_keys, lambda x, t: score(average, x, t), sde, x0, t)))
exact_loss = float(jnp.mean(dsm_loss(test_keys, exact_score, sde, x0, t)))
print(f"loss on the same noise: learned {learned_loss:.4f}, exact {exact_loss:.4f}")

# %% [markdown]
# ## Exact against learned
#
# The relative error at time $t$ is $\sqrt{\mathbb E \lVert s_\theta - s \rVert^2 / \mathbb E \lVert s \rVert^2}$ over
# $x_t \sim p_t$.

# %%
times = [0.02, 0.1, 0.3, 1.0]
errors, pictures = [], plt.figure(figsize=(12, 2.8), layout="constrained").subplots(1, 4)
for axes, time in zip(pictures, times):
    x, _ = sde.perturb(test_keys, x0, jnp.full(len(x0), time))
    difference = score(average, x, jnp.full(len(x), time)) - exact_score(x, jnp.full(len(x), time))
    errors.append(float(jnp.sqrt(jnp.mean(difference**2) / jnp.mean(exact_score(x, time) ** 2))))
    line = jnp.linspace(*np.quantile(x, [0.001, 0.999]), 300)[:, None]
    axes.plot(line, exact_score(line, time), "k", lw=3, alpha=0.3, label="exact")
    axes.plot(line, score(average, line, jnp.full(300, time)), "C0", label="learned")
    axes.set(title=f"t = {time}: error {errors[-1]:.1%}", xlabel="x")
_ = pictures[0].legend(frameon=False)
print("relative errors:", ", ".join(f"{error:.3f} at t = {time}" for error, time in zip(errors, times)))

# %% [markdown]
# The error is largest where $p_t$ has a gap between the modes: few noisy examples get there, so the loss hardly depends
# on what the network says there.
#
# ## Samples
#
# A sampler is a solver, a grid of times and a number of steps. This one follows the probability flow ODE, the equation
# without noise that has the same marginals $p_t$ (eq. 13 of the paper), by Heun's method.

# %%
from sde_lib import Sampler
from sde_lib.solvers import Heun

sampler = Sampler(solver=Heun(), num_steps=50)
noise_keys = sample_keys(jax.random.key(4), jnp.arange(num_samples))
draw = jax.jit(lambda f: sampler(noise_keys, sde, f, (1,)), static_argnums=0)
samples = {"learned": draw(lambda x, t: score(average, x, t)), "exact": draw(exact_score)}
truth = data.sample(sample_keys(jax.random.key(5), jnp.arange(num_samples)))


def distance(a, b):
    """Wasserstein distance W₁ of two sets of as many points on the line: the mean |a_i − b_i| of the sorted ones."""
    return float(np.mean(np.abs(np.sort(a[:, 0]) - np.sort(b[:, 0]))))


again = data.sample(sample_keys(jax.random.key(6), jnp.arange(num_samples)))
found = {name: distance(x, truth) for name, x in samples.items()} | {"floor": distance(again, truth)}
left = {name: float(jnp.mean(x < -0.1)) for name, x in samples.items()}
print(f"W1 to the data: {found['learned']:.4f} by the learned score, {found['exact']:.4f} by the exact one")
print(f"  of two sets of true examples: {found['floor']:.4f}")
print(f"mass of the left mode: {left['learned']:.3f}, {left['exact']:.3f}; true: 0.600")
axes = plt.figure(figsize=(6, 2.8)).subplots()
bins = np.linspace(-2.2, 1.6, 120)
axes.hist(truth[:, 0], bins, density=True, color="0.8", label="data")
axes.hist(samples["learned"][:, 0], bins, density=True, histtype="step", color="C0", label="samples, learned score")
_ = axes.legend(frameon=False)

# %% [markdown]
# Next: [your own SDE](02_your_own_sde.ipynb) in place of `VP`, or [other samplers](03_samplers.ipynb) in place of
# Heun's.
