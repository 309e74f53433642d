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
# # 6 · Digits from end to end
#
# **At the end** you have trained a model of handwritten digits, interrupted it and gone on, drawn samples, and compared
# them with real digits in numbers that mean something. It takes three minutes on two cores. `make digits` does the same
# from the command line, with 2.5 times as many steps.
#
# Everything a run needs or makes is in one folder: config, checkpoints, log, samples, report, and a page `index.html`
# that shows them.

# %% tags=["parameters"]
num_steps = 1000
num_samples = 500

# %% [markdown]
# ## The config
#
# A config is data: which process, network, loss, optimizer and sampler, each with its options. Any value can be
# changed.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import run_lib
from configs.digits import get_config

config = get_config()
config.training.num_steps = num_steps
config.training.update(
    log_every=max(1, num_steps // 20), sample_every=max(1, num_steps // 2), checkpoint_every=num_steps
)
run = f"digits_{num_steps}"
print(config.sde)
print(f"{config.network.call}, {config.network.nf} channels; sampler {config.sampling.use}")

# %% [markdown]
# ## Training
#
# Press the stop button whenever you like. Training then writes a checkpoint and returns `False`, and the same call goes
# on from there, exactly: a batch and its noise are functions of the seed and the step. With `show=True` losses and
# samples appear below the cell.

# %%
complete = run_lib.train(config, run, show=True)
print("complete:", complete)

# %% [markdown]
# The loss is that of denoising: it falls fast at first, and slowly for the rest of training, while samples get better.
# Samples use an average of the parameters over steps (EMA).
#
# ## Samples
#
# Sample $i$ is a function of the seed and of $i$, whatever the batch size. Samples are cached in the folder, so a
# second call draws nothing.

# %%
samples = run_lib.sample(run, num_samples, seed=0)
same = run_lib.sample(run, num_samples, seed=0)
print(samples.shape, samples.dtype, "equal:", bool(np.all(samples == same)))
figure = plt.figure(figsize=(7, 2.9), layout="constrained")
for axes, image in zip(figure.subplots(5, 12).flat, samples):
    axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()

# %% [markdown]
# ## Evaluation
#
# The Fréchet distance compares means and covariances of two sets of images. A small number alone says nothing: the same
# number for real test images is the floor, and the ratio of both is what to look at. A classifier's confidence finds
# digits that are blurred. The distance to the nearest training digit finds copies.

# %%
report = run_lib.evaluate(run, num_samples)
frechet, confident, nearest = (report[name]["ratio"] for name in ("frechet", "confident", "nearest"))
print(f"Fréchet distance: {frechet:.2f} times that of test digits")
print(f"fraction classified with confidence above 0.9: {confident:.2f} times")
print(f"distance to the nearest training digit: {nearest:.2f} times")

# %% [markdown]
# `make digits` (2,500 steps) reaches 1.06 ± 0.03, 0.99 ± 0.01 and 1.02 ± 0.01 over four trainings.
#
# ## Another sampler, from the same parameters
#
# The sampler is not part of training. Here is the probability flow ODE by Heun's method, in a third of the evaluations.

# %%
from sde_lib import EDMGrid, Sampler, as_is
from sde_lib.solvers import Heun

model = run_lib.load(run).replace(sampler=Sampler(solver=Heun(), grid=EDMGrid(t_end=1e-3), num_steps=7, denoise=as_is))
few, nfe = model.with_nfe(jax.random.key(0), np.arange(36))
evaluations = int(nfe[0])
print(f"{evaluations} evaluations of the score for each sample")
figure = plt.figure(figsize=(7, 1.9), layout="constrained")
for axes, image in zip(figure.subplots(3, 12).flat, few):
    axes.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
    axes.set_axis_off()

# %% [markdown]
# Open `runs/digits_1000/index.html` for the page of this run. Next: [your own images](07_your_own_images.ipynb). What
# each metric means, and FID: [docs/evaluation.md](../docs/evaluation.md).
