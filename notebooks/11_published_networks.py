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
# # 11 · Networks of other projects
#
# **At the end** you have a pretrained network of EDM, EDM2, diffusers, ADM, DiT or SiT as a work directory, with what
# its own code does not give: a log likelihood with its errors, and answers to measurements. It takes two minutes on two
# cores with the small network made here. A published network needs a GPU.
#
# One command reads a published file, runs nothing of it, and states what it took:
#
# `python main.py --mode=import --checkpoint=edm-cifar10-32x32-cond-vp.pkl --workdir=runs/edm`
#
# [docs/published_models.md](../docs/published_models.md) lists the files, their licenses (EDM's weights are
# non-commercial), and what each needs.

# %% tags=["parameters"]
CHECKPOINT = ""  # a file, a folder of diffusers, or hf:OWNER/NAME; "" makes a small file
num_steps = 200
num_samples = 36

# %% [markdown]
# ## A small file
#
# Without a file, EDM's form of network is trained on digits: the process with σ = t, its preconditioning, its
# log-normal distribution of σ and its weight. It is then written to one file of safetensors, as any run can be.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import run_lib
from config_lib.spec import bind, spec
from configs.digits import get_config
from sde_lib import EDM, EDMGrid, EDMPreconditioning, EDMWeight, LogNormalTime, Sampler, dsm_loss, tweedie
from sde_lib.solvers import EDMHeun

if not CHECKPOINT:
    config = get_config()
    config.sde = spec(EDM)
    config.parameterization = spec(EDMPreconditioning)
    config.loss, config.time_distribution = bind(dsm_loss, weight=EDMWeight()), spec(LogNormalTime)
    parts = dict(solver=EDMHeun(), grid=EDMGrid(), num_steps=17, denoise=tweedie)
    config.sampling.published = spec(Sampler, **parts)
    config.sampling.use = "published"
    config.training.update(num_steps=num_steps, eval_every=0, sample_every=0, checkpoint_every=num_steps)
    run_lib.train(config, "runs/edm_digits")
    CHECKPOINT = "runs/edm_digits.safetensors"
    if not os.path.exists(CHECKPOINT):
        run_lib.export("runs/edm_digits", CHECKPOINT)

# %% [markdown]
# ## Into a work directory
#
# No config is given: the file states its network, process and data range. Every array of the file is one parameter of
# the network, used once.

# %%
if not os.path.exists("runs/imported/config.json"):
    run_lib.import_checkpoint(None, CHECKPOINT, "runs/imported")
model = run_lib.load("runs/imported")
count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
print(f"{type(model.sde).__name__}, {type(model.parameterization).__name__}, {count:,} parameters")

# %% [markdown]
# ## Its denoiser
#
# `denoise` is D(x; σ) of Karras et al. 2022 for networks of EDM, x̂₀ for all others. Tweedie's formula connects it with
# the score: x̂₀ = (x + σ² score)/α.

# %%
key = jax.random.key(0)
x0 = model.to_model(model.sample(key, 16))
t = model.sde.time_of_log_snr(jnp.float32(0.0))  # where signal and noise are equal
x, _ = model.sde.perturb(jax.random.split(key, 16), x0, t)
denoised = model.denoise(x, t)
by_score = (x + model.sde.sigma(t) ** 2 * model.score(x, t)) / model.sde.alpha(t)
disagreement = float(jnp.max(jnp.abs(denoised - by_score)) / jnp.max(jnp.abs(denoised)))
improvement = float(jnp.mean((denoised - x0) ** 2) / jnp.mean((x - x0) ** 2))
print(f"denoiser and score differ by {disagreement:.0e}; the error is {improvement:.2f} of the noisy image's")

# %% [markdown]
# ## Its samples, and their likelihood
#
# The sampler is EDM's, with 18 noise levels and 35 evaluations. The likelihood comes from the probability-flow ODE,
# with the errors of its solver and of its divergence.

# %%
samples = model.sample(key, num_samples)
found = model.log_prob(key, samples[:4])
shuffled = np.random.default_rng(0).permuted(samples[:4].reshape(4, -1), axis=1).reshape(samples[:4].shape)
of_shuffled = model.log_prob(key, shuffled)
print(f"log p of samples {np.mean(found.value):.0f} nats, with their pixels shuffled {np.mean(of_shuffled.value):.0f}")
fig, axes = plt.subplots(6, 6, figsize=(4, 4))
for ax, image in zip(axes.flat, samples, strict=False):
    ax.imshow(image[..., 0], cmap="gray")
    ax.axis("off")
plt.show()

# %% [markdown]
# ## Answers to measurements
#
# The same network repairs images it was never trained to repair: here the lower half is unknown. Each answer agrees
# with what was measured.

# %%
from sde_lib.posterior import Mask, Observation

truth, noise_std = samples[:1].astype(np.float32), 0.05 * float(np.ptp(samples))
known = np.zeros(model.shape, np.float32)
known[: model.shape[0] // 2] = 1
observation = Observation(operator=Mask(mask=known), y=jnp.asarray(truth * known), noise_std=noise_std)
answers = model.posterior(key, observation, 4)[0]
errors = (answers - truth)[:, : model.shape[0] // 2]
residual = float(np.sqrt(np.mean(errors**2)))
print(f"the answers differ from the measured half by {residual:.1f} gray levels; the noise has {noise_std:.1f}")
