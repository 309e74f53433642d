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
# # 10 · Data augmentation
#
# **At the end** you have measured whether samples of a class-conditional model help to train a classifier, where there
# are few labeled examples: test accuracy with and without them, as mean and standard error over seeds.
#
# The rules were fixed before the first run:
#
# - For $n$ = 50, 100 and 200 digits, as many of each class, the model is trained on *these $n$ digits only*.
# - Each seed draws other digits, trains another model and draws other samples.
# - The classifier is a support vector machine with the same hyperparameters everywhere.
# - It is compared with two simple augmentations: shifts by one pixel, and noise on the pixels.
# - The test digits are 500 that nothing was trained on. Nothing was chosen by their accuracy.

# %% tags=["parameters"]
sizes = (50, 100, 200)
seeds = (0, 1, 2)
num_steps = 800
num_samples = 1000
features = 128

# %% [markdown]
# ## Data
#
# The 1,797 digits that scikit-learn ships, 8×8 pixels with values from 0 to 16.

# %%
import numpy as np

from data_lib import ArraySource, Dataset, digits

pool, test = digits(test=500)
test_x, test_label = test.x.reshape(-1, 64).astype(np.float32), test.label


def few(n, seed):
    """n digits [n, 64] of the pool, n/10 of each class, and their labels [n]."""
    draw = np.random.default_rng([n, seed])
    rows = [draw.choice(np.flatnonzero(pool.label == k), n // 10, replace=False) for k in range(10)]
    rows = np.concatenate(rows)
    return pool.x[rows].reshape(-1, 64).astype(np.float32), pool.label[rows]


# %% [markdown]
# ## The model
#
# An MLP on the 64 pixels, conditioned on the class. With so few digits, its samples may be copies: the last
# section measures that.

# %%
import jax

import run_lib
from config_lib.spec import spec
from configs.points import get_config
from data_lib import Scale
from models import MLP


def config_of(seed):
    config = get_config()
    config.shape, config.transform, config.seed = (64,), spec(Scale, low=0.0, high=16.0), seed
    config.network = spec(MLP, features=features, num_layers=3, num_classes=10)
    config.training.update(num_steps=num_steps, batch_size=128, eval_every=0, checkpoint_every=0, log_every=500)
    return config


def train_model(n, seed):
    """The model of p(x | class), trained on the n digits of this seed."""
    x, label = few(n, seed)
    directory = f"augmentation/{n}_{seed}"
    run_lib.train(config_of(seed), directory, Dataset(ArraySource(x, label), ArraySource(test_x, test_label)))
    return run_lib.load(directory)


def samples_of(model, seed):
    """Samples [num_samples, 64] in 0 … 16 and their labels, each class in turn."""
    label = np.arange(num_samples) % 10
    return np.clip(model.sample(jax.random.key(seed), num_samples, cond=label), 0, 16), label


# %% [markdown]
# ## The simple augmentations
#
# Both give as many examples as the model gives samples.


# %%
def shifted(x, label, draw):
    """Each example moved by −1, 0 or 1 pixel along both axes; 0 comes in from outside."""
    rows = np.arange(num_samples) % len(x)
    padded = np.pad(x[rows].reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    moves = draw.integers(0, 3, (num_samples, 2))
    return np.stack([p[i : i + 8, j : j + 8] for p, (i, j) in zip(padded, moves, strict=True)]).reshape(-1, 64), label[
        rows
    ]


def noisy(x, label, draw):
    """Each example with normal noise of standard deviation 2 on its pixels."""
    rows = np.arange(num_samples) % len(x)
    return np.clip(x[rows] + 2 * draw.normal(size=(num_samples, 64)), 0, 16), label[rows]


# %% [markdown]
# ## The classifier

# %%
from sklearn.svm import SVC


def accuracy(x, label, x_test=test_x, label_test=test_label):
    """Test accuracy of the support vector machine trained on x and label."""
    return SVC(C=10.0, gamma=0.02 / 16).fit(x, label).score(x_test, label_test)


judge = SVC(C=10.0, gamma=0.02 / 16).fit(pool.x.reshape(-1, 64), pool.label)  # all 1,297: only to look at samples
print(f"accuracy with all {len(pool)} digits: {judge.score(test_x, test_label):.3f}")

# %% [markdown]
# ## All runs

# %%
import contextlib
import io

METHODS = ("digits alone", "+ samples", "samples alone", "+ shifts", "+ noise")
found = {(n, method): [] for n in sizes for method in METHODS}
of_class, drawn = {n: [] for n in sizes}, {}
for n in sizes:
    for seed in seeds:
        x, label = few(n, seed)
        with contextlib.redirect_stdout(io.StringIO()):  # the logs of 15 trainings
            y, y_label = samples_of(train_model(n, seed), seed)
        draw = np.random.default_rng(seed)
        moved, noised = shifted(x, label, draw), noisy(x, label, draw)
        with_x = lambda other: (np.concatenate([x, other[0]]), np.concatenate([label, other[1]]))  # noqa: B023, E731
        sets = ((x, label), with_x((y, y_label)), (y, y_label), with_x(moved), with_x(noised))
        for method, data in zip(METHODS, sets, strict=True):
            found[n, method].append(accuracy(*data))
        of_class[n].append(judge.score(y, y_label))
        drawn[n] = y, y_label


def mean_and_error(values):
    """Mean, and its standard error over seeds."""
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


print("test accuracy in %, mean ± standard error over", len(seeds), "seeds")
print(" " * 15 + "".join(f"{f'n = {n}':>14}" for n in sizes))
for method in METHODS:
    cells = [mean_and_error(100 * np.array(found[n, method])) for n in sizes]
    print(f"{method:15}" + "".join(f"{f'{mean:.1f} ± {error:.1f}':>14}" for mean, error in cells))

# %% [markdown]
# The seeds draw different digits, which is most of the error above. Both classifiers of a seed have the same digits, so
# the difference of a pair has a smaller error.

# %%
gains = {}
for method in METHODS[1:]:
    for n in sizes:
        gains[n, method] = mean_and_error(100 * (np.array(found[n, method]) - np.array(found[n, "digits alone"])))
    cells = [f"{mean:+.1f} ± {error:.1f}" for mean, error in (gains[n, method] for n in sizes)]
    print(f"{method:15}" + "".join(f"{cell:>14}" for cell in cells))

# %% [markdown]
# ## What the samples look like
#
# How many samples have their class, by the classifier that was trained on all digits? This one is no part of the
# comparison. And are the samples copies of the $n$ digits? The reference is the distance of test digits.

# %%
import matplotlib.pyplot as plt

from eval_lib.neighbors import nearest

ratio = {}
for n in sizes:
    x, _ = few(n, seeds[-1])
    own, other = (np.median(nearest(z, x)[1]) for z in (drawn[n][0], test_x))
    ratio[n] = own / other
    print(f"n = {n}: {100 * np.mean(of_class[n]):.1f} % of the samples have their class;", end=" ")
    print(f"distance to the nearest of the n digits: {own:.1f}, of test digits {other:.1f}")
rows = plt.figure(figsize=(8, 3), layout="constrained").subplots(len(sizes), 1, squeeze=False)[:, 0]
for axes, n in zip(rows, sizes, strict=True):
    axes.imshow(np.concatenate(drawn[n][0][:20].reshape(-1, 8, 8), axis=1), cmap="gray_r", vmin=0, vmax=16)
    axes.set(title=f"n = {n}", xticks=[], yticks=[])

# %% [markdown]
# This is one data set, one model and one classifier. Repeat it on yours before you rely on it: `few`, `config_of` and
# `accuracy` are all there is to change. For images, [random transformations](../docs/own_data.md#few-images) of the
# training data make a model of few examples better, and its samples do not show them.
#
# Next: the [starting points](../docs/starting.md) for data of your own.
