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
# # 8 · A published checkpoint
#
# **At the end** you have a checkpoint of score_sde as a work directory of this project: its scores are checked, and you
# have drawn samples and repaired images with it. It takes two minutes on two cores with the small file made here. The
# published networks need a GPU to sample in reasonable time.
#
# The authors of [score_sde](https://github.com/yang-song/score_sde) share their checkpoints in a folder on Google Drive
# that its README links: flax files and, for score_sde_pytorch, `.pth` files. Download one, or upload it in Colab, and
# set the two lines below. For the CIFAR-10 model `cifar10_ncsnpp_continuous` the config is `configs.cifar10`; the table
# in [docs/experiments.md](../docs/experiments.md) has those of all others.

# %% tags=["parameters"]
CHECKPOINT = ""  # the path of a file; "" makes a small one, in the published format
CONFIG = "configs.digits"  # the config that the checkpoint belongs to
num_steps = 600
num_samples = 36

# %% [markdown]
# ## A small file in the same format
#
# Without a file, a network is trained on digits for a minute, and written as the authors' code would write it: with
# their names of classes and leaves. Reading runs nothing that a file contains, a PyTorch pickle included.

# %%
import importlib

import flax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import run_lib

CLASSES = {"ResidualBlock": "ResnetBlockBigGANpp", "AttentionBlock": "AttnBlockpp"}


def published_name(path):
    """Their path of a leaf, from ours."""
    kind, _, number = path[0].rpartition("_")
    inside = path[1:]
    if kind == "AttentionBlock" and inside[0].startswith("Dense"):
        inside = (inside[0].replace("Dense", "NIN"), {"kernel": "W", "bias": "b"}[inside[1]])
    return (f"{CLASSES.get(kind, kind)}_{number}", *inside)


config = importlib.import_module(CONFIG).get_config()
original = None
if not CHECKPOINT:
    CHECKPOINT = f"published_{num_steps}.msgpack"
    config.training.update(
        num_steps=num_steps, log_every=max(1, num_steps // 4), sample_every=0, checkpoint_every=num_steps
    )
    done = run_lib.train(config, f"to_publish_{num_steps}")
    original = run_lib.load(f"to_publish_{num_steps}")
    leaves = flax.traverse_util.flatten_dict(original.params)
    tree = flax.traverse_util.unflatten_dict({published_name(path): np.asarray(leaf) for path, leaf in leaves.items()})
    file = {"step": num_steps, "optimizer": {"target": tree}, "params_ema": tree}
    with open(CHECKPOINT, "wb") as stream:
        stream.write(flax.serialization.msgpack_serialize(file))
    print("their names, for instance:", *["/".join(published_name(path)) for path in list(leaves)[:4]])

# %% [markdown]
# ## Import
#
# Every leaf of the file must find its place in the network, and every place must be filled once. Otherwise nothing is
# written, and the error lists what does not match.

# %%
import shutil

shutil.rmtree("imported", ignore_errors=True)
step = run_lib.import_checkpoint(config, CHECKPOINT, "imported")
model = run_lib.load("imported")
print(f"imported at step {step}")
model

# %% [markdown]
# The scores of the import, against those of the network that was written:

# %%
x = jax.random.normal(jax.random.key(0), (16, *model.shape))
difference = 0.0
if original is not None:
    for t in (0.01, 0.1, 0.5, 1.0):
        a, b = (m.score(x, jnp.full(16, t)) for m in (original, model))
        difference = max(difference, float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a))))
print(f"largest relative difference of scores: {difference:.1e}")

# %% [markdown]
# ## Samples
#
# It is now a work directory like any other: `sample`, `evaluate`, `restore`, likelihoods and more training apply.

# %%
samples = run_lib.sample("imported", num_samples)
figure = plt.figure(figsize=(7, 2.2), layout="constrained")
for axes, image in zip(figure.subplots(3, 12).flat, samples):
    axes.imshow(image.squeeze(), cmap="gray")
    axes.set_axis_off()

# %% [markdown]
# ## Inpainting
#
# The left half of a sample is known, the right half is drawn again.

# %%
from sde_lib.posterior import Mask, Observation

clean = model.sample(jax.random.key(1), 4, rounded=False)
known = np.zeros((*model.shape[:2], 1), "float32")
known[:, : model.shape[1] // 2] = 1
observation = Observation(y=known * clean, operator=Mask(mask=known), noise_std=0.1)
answers = np.asarray(model.posterior(jax.random.key(2), observation, 5))
off = answers - np.asarray(clean)[:, None]
left = np.broadcast_to(known == 1, off.shape)
known_error, drawn_error = (float(np.sqrt(np.mean(off[where] ** 2))) for where in (left, ~left))
print(f"distance of answers to the sample: known half {known_error:.2f}, drawn half {drawn_error:.2f}")
figure = plt.figure(figsize=(6, 3.6), layout="constrained")
for i, row in enumerate(figure.subplots(4, 7)):
    shown = [np.where(known == 1, clean[i], np.nan), clean[i], *answers[i]]
    for axes, image, title in zip(row, shown, ["known", "sample", *[f"answer {k}" for k in range(1, 6)]]):
        axes.imshow(np.squeeze(image), cmap="gray")
        axes.set_axis_off()
        axes.set_title(title if i == 0 else "", fontsize=9)

# %% [markdown]
# Fine-tuning is `run_lib.train(config, "imported")`, with the data of the config. Next: [conditioning on a
# vector](09_conditioning_on_a_vector.ipynb).
