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
# # 7 · Your own images
#
# **At the end** you have a model of the images in a folder: described, trained, sampled, compared with the data in
# numbers, and written as PNG files. Set `FOLDER` to a folder of your own. Its images may have any sizes.

# %% tags=["parameters"]
FOLDER = ""  # "": crops of two photographs, made below
shape = (32, 32, 3)  # height, width, channels: every image is cropped to this ratio and resized
num_crops = 2000
num_steps = 600
more_steps = 400  # by which the training is continued
num_samples = 64
nf = 64  # channels of the network

# %% [markdown]
# ## A folder of images
#
# scikit-learn ships two photographs. Without a folder of your own, the data are crops of 32×32 pixels at random places
# of them, after shrinking by 2.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def write_crops(folder, count, size=32):
    """`count` crops as PNG files, half of each photograph, at distinct places."""
    os.makedirs(folder, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        picture = np.asarray(Image.fromarray(photograph).reduce(2))
        places = (picture.shape[0] - size + 1, picture.shape[1] - size + 1)
        for k, place in enumerate(draw.choice(places[0] * places[1], count // 2, replace=False)):
            y, x = np.unravel_index(place, places)
            Image.fromarray(picture[y : y + size, x : x + size]).save(f"{folder}/{name}{k:04d}.png")


folder = FOLDER or "crops"
if not FOLDER:
    write_crops(folder, num_crops)

# %% [markdown]
# ## The config, by the data
#
# `configs/photos.py` is the starting point for images; `small` is its network for a CPU. `with_data` is what
# `--data=FOLDER` does on the command line. It measures some images, chooses the noise levels, and prints each value
# with its reason. Patches of 4×4 pixels make the network faster than its default of 2×2. On a GPU use `get_config()`,
# which has no patches, and more pixels.

# %%
import run_lib
from config_lib.spec import build
from configs.own_data import with_data
from configs.photos import get_config
from data_lib import gather

config = get_config("small")
config.network.update(nf=nf, patch=4)
with_data(config, folder, [f"--config.shape={','.join(map(str, shape))}"])
config.training.update(num_steps=num_steps, ema=0.99, log_every=25, eval_every=0, checkpoint_every=num_steps)
config.training.update(sample_every=num_steps // 2, snapshot_size=4)

# %% [markdown]
# `describe_data` is worth a look before anything is trained: it counts the examples, lists files that cannot be read,
# and warns if an image is on both sides of the split into training and test images.

# %%
description = run_lib.describe_data(config)

# %% [markdown]
# ## Training
#
# The picture below the cell has the losses, and 4 samples of the average of the parameters (EMA). It is drawn again
# while the network trains.

# %%
complete = run_lib.train(config, "own_images", show=True)

# %%
from io_lib.metrics import read_metrics


def mean_loss(first, last):
    """Mean of the logged losses of these steps."""
    return float(np.mean([line["loss"] for line in read_metrics("own_images") if first < line["step"] <= last]))


early, late = mean_loss(0, num_steps // 3), mean_loss(num_steps - num_steps // 3, num_steps)
print(f"mean loss of the first third {early:.3f}, of the last third {late:.3f}")

# %% [markdown]
# ## Samples next to data
#
# `sample` returns uint8 images and writes them into `own_images/samples`. Its cache makes a second call free, and a
# call for more draws the missing ones only.
#
# Three figures compare them with the test images, which were not trained on. The floor is the same figure of as many
# training images. The features of the sliced Wasserstein distance are means and detail of each size, in cells of a
# grid; they need no network.

# %%
from eval_lib import PyramidFeatures, sliced_wasserstein_distance
from eval_lib.neighbors import nearest

dataset = build(config.data)
train = gather(dataset.train, np.arange(len(dataset.train)))["x"]
test = gather(dataset.test, np.arange(len(dataset.test)))["x"]
features, draw = PyramidFeatures(), np.random.default_rng(1)
center, spread = features(train).mean(0), features(train).std(0) + 1e-6
other = train[draw.choice(len(train), min(num_samples, len(train)), replace=False)]


def figures(images):
    """Sliced Wasserstein distance to the test images; mean color [3]; contrast, the std of an image's pixels."""
    ours, theirs = ((features(x) - center) / spread for x in (images, test))
    return (
        sliced_wasserstein_distance(ours, theirs),
        images.mean((0, 1, 2)),
        float(images.std((1, 2)).mean()),
    )


def report(samples):
    found = {"samples": figures(samples), "training images": figures(other), "test images": figures(test)}
    for name, (distance, color, contrast) in found.items():
        colors = ", ".join(f"{value:3.0f}" for value in color)
        distance = "" if name == "test images" else f"distance to test images {distance:.2f}, "
        print(f"{name:16}{distance}mean color ({colors}), contrast {contrast:.1f}")
    return found


first_samples = np.asarray(run_lib.sample("own_images", num_samples))
first = report(first_samples)

# %% [markdown]
# ## Training continues by the same call
#
# With a larger `num_steps`, `train` resumes at the newest checkpoint.

# %%
config.training.num_steps = num_steps + more_steps
config.training.sample_every = 0
complete = run_lib.train(config, "own_images")
samples = np.asarray(run_lib.sample("own_images", num_samples))
second = report(samples)
still_later = mean_loss(num_steps + more_steps // 2, num_steps + more_steps)
print(f"mean loss of the last {more_steps // 2} steps {still_later:.3f}")

# %%
from io_lib.pictures import image_grid

left, right = plt.figure(figsize=(5, 2.8), layout="constrained").subplots(1, 2)
for axes, title, images in ((left, "data", other), (right, f"samples after {num_steps + more_steps} steps", samples)):
    axes.imshow(image_grid(images[:25]))
    axes.set(title=title)
    axes.set_axis_off()

# %% [markdown]
# ## Are they copies?
#
# The nearest training image of each sample, in pixels. A copy has the distance 0. Test images are the reference: crops
# of one photograph overlap, so theirs is small too.

# %%
flat = lambda x: x.reshape(len(x), -1) / 255  # noqa: E731
index, distance = nearest(flat(samples), flat(train))
reference = nearest(flat(test), flat(train))[1]
print(f"distance to the nearest training image, median: samples {np.median(distance):.2f}", end=", ")
print(f"test images {np.median(reference):.2f}; smallest of a sample {distance.min():.2f}")
axes = plt.figure(figsize=(5, 1.7), layout="constrained").subplots()
axes.imshow(image_grid(np.concatenate([samples[:8], train[index[:8, 0]]]), columns=8))
axes.set(title="samples, and below each its nearest training image")
_ = axes.set_axis_off()

# %% [markdown]
# ## PNG files

# %%
os.makedirs("own_images_png", exist_ok=True)
for k, image in enumerate(samples):
    Image.fromarray(image.squeeze()).save(f"own_images_png/{k:04d}.png")
print(len(os.listdir("own_images_png")), "files in own_images_png")

# %% [markdown]
# A few minutes of a CPU give colors and textures, not objects. [starting.md](../docs/starting.md) has what a longer
# training gives; `run_lib.evaluate("own_images")` computes more figures, each with its floor.
#
# Next: [conditioning on a vector](08_a_published_checkpoint.ipynb). More on folders, classes and few images is in
# [own_data.md](../docs/own_data.md).
