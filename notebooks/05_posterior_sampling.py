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
# # 5 · Posterior sampling: against the exact posterior, then digits with holes
#
# **At the end** you have drawn from $p(x \mid y)$ by three methods and seen how far each is from the exact posterior.
# Then you have repaired digits whose middle is missing, several times each, with the spread of the answers. It takes
# three minutes on two cores, most of it to train a model of the digits.
#
# You have a score of $p(x)$ and an observation $y = A x + \sigma_y n$. By Bayes' rule the score of the posterior at
# time $t$ is
#
# $$ \nabla \log p_t(x \mid y) = \nabla \log p_t(x) + \nabla_x \log p(y \mid x_t). $$
#
# The last term is an integral over all $x_0$ that may have become $x_t$. Methods differ in how they approximate it. No
# network is trained again.

# %% tags=["parameters"]
num_samples = 4000
num_steps = 800
answers_each = 8

# %% [markdown]
# ## Where the posterior is known
#
# For a mixture of normals the posterior of any linear observation is a mixture of normals. Here the observation is one
# noisy coordinate, and the posterior has two modes.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from eval_lib import sliced_wasserstein_distance
from sde_lib import VP, PowerGrid, Sampler, as_is, sample_keys
from sde_lib.posterior import MMPS, DPSGaussian, FullMixture, Observation, PiGDM, Project, posterior_score
from sde_lib.solvers import Ancestral

sde = VP()
prior = FullMixture(
    means=np.array([[-1.0, 0.8], [0.8, -0.6]]),
    covariances=np.array([[[0.5, 0.3], [0.3, 0.4]], [[0.4, -0.2], [-0.2, 0.3]]]),
    weights=np.array([0.5, 0.5]),
)
matrix, y, noise_std = np.array([[1.0, 0.0]]), np.array([0.2]), 0.4
observation = Observation(y=y[None], operator=Project(matrix=matrix), noise_std=noise_std)
exact = prior.posterior(matrix, y, noise_std)

keys = sample_keys(jax.random.key(0), jnp.arange(num_samples))
sampler = Sampler(solver=Ancestral(), grid=PowerGrid(), num_steps=100, denoise=as_is)
found = {"exact": np.asarray(exact.sample(keys))}
for method in (MMPS(), PiGDM(), DPSGaussian()):
    score = posterior_score(prior.score_fn(sde), sde, observation, method)
    found[type(method).__name__] = np.asarray(jax.jit(lambda score=score: sampler(keys, sde, score, (2,)))())
again = np.asarray(exact.sample(sample_keys(jax.random.key(1), jnp.arange(num_samples))))
distances = {name: sliced_wasserstein_distance(x, again) for name, x in found.items()}
upper = {name: float(np.mean(x[:, 1] > 0.3)) for name, x in found.items()}
print("method        sliced W2   mass of the upper mode")
for name in found:
    print(f"{name:12s} {distances[name]:10.3f} {upper[name]:14.3f}")

# %%
figure = plt.figure(figsize=(11, 2.9), layout="constrained")
draws = np.asarray(prior.sample(keys))
for axes, (name, x) in zip(figure.subplots(1, 4, sharex=True, sharey=True), found.items()):
    axes.scatter(*draws[:1500].T, s=1, color="0.85")
    axes.scatter(*x[:1500].T, s=1)
    axes.axvline(y[0], color="C1", lw=1)
    axes.set(title=name, xlim=(-3, 3), ylim=(-2.5, 2.5), aspect="equal")

# %% [markdown]
# Gray: the prior. Blue: draws from the posterior. Orange: the observation. `MMPS` is exact for priors that are normal,
# and close here. The row `exact` is the floor, the distance of two sets of exact draws.
#
# ## Digits with holes
#
# A small network learns the digits, 8 × 8 pixels with values from 0 to 16. It does not learn about holes.

# %%
import run_lib
from configs.digits import get_config
from data_lib import digits

config = get_config()
config.training.update(
    num_steps=num_steps, log_every=max(1, num_steps // 8), sample_every=0, checkpoint_every=num_steps
)
done = run_lib.train(config, f"posterior_digits_{num_steps}")
model = run_lib.load(f"posterior_digits_{num_steps}")

# %% [markdown]
# The middle 4 × 4 pixels are missing. The others are known, up to noise with a deviation of 0.5.

# %%
from sde_lib.posterior import Mask

truth = digits().test.x[::62][:8].astype("float32")
mask = np.ones((8, 8, 1), "float32")
mask[2:6, 2:6] = 0
noise = 0.5 * np.random.default_rng(0).normal(size=truth.shape).astype("float32")
damaged = Observation(y=mask * (truth + noise), operator=Mask(mask=mask), noise_std=0.5)
answers = np.asarray(model.posterior(jax.random.key(2), damaged, answers_each), "float32")  # [8, answers_each, 8, 8, 1]

mean, spread = answers.mean(axis=1), answers.std(axis=1, ddof=1)
hole = np.broadcast_to(mask == 0, truth.shape)
rms = lambda values: float(np.sqrt(np.mean(values**2)))  # noqa: E731
misfit = rms((answers - (truth + noise)[:, None])[np.broadcast_to(~hole[:, None], answers.shape)])
error, width, average = rms((mean - truth)[hole]), rms(spread[hole]), rms((digits().train.x.mean(axis=0) - truth)[hole])
print(f"in the hole: error of the answers' mean {error:.2f}, spread of the answers {width:.2f}")
print(f"  error of the mean digit, an answer without a look at y: {average:.2f}")
print(f"outside: distance of answers to y {misfit:.2f}; its noise is 0.50")

# %%
figure = plt.figure(figsize=(8, 7.4), layout="constrained")
columns = ["observed", "truth", *[f"answer {k}" for k in range(1, 5)], "mean", "spread"]
for i, row in enumerate(figure.subplots(8, len(columns))):
    shown = [np.where(mask == 0, np.nan, damaged.y[i]), truth[i], *answers[i, :4], mean[i], 2 * spread[i]]
    for axes, picture, title in zip(row, shown, columns):
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=16)
        axes.set_axis_off()
        axes.set_title(title if i == 0 else "")

# %% [markdown]
# For photographs and tomograms, from the command line: `--mode=restore` in [docs/posterior.md](../docs/posterior.md).
# Next: [the digits from end to end](06_digits_end_to_end.ipynb).
