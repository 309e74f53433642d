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
# # 9 · Conditioning on a vector
#
# **At the end** you have a model of signals conditioned on two physical parameters. You have compared its mean and
# standard deviation with the exact ones, also at parameters that were not in the training data. And you have inverted
# it: the probability of the parameters, given one signal.
#
# The signals are damped oscillations, observed with noise at 64 times $s \in [0, 1]$:
#
# $$ x(s) = e^{-d s} \cos(2 \pi f s + \varphi) + \tau\, n(s), \qquad \varphi \sim \mathcal U(-\Delta, \Delta). $$
#
# The condition is $c = (f, d)$, frequency and damping. The phase is unknown, so $p(x \mid c)$ is not a normal
# distribution. Its moments are known: with $a = 2 \pi f s$,
#
# $$ \mathbb E[x] = e^{-ds} \cos a \, \frac{\sin \Delta}{\Delta}, \qquad
#    \mathbb E[(x - \tau n)^2] = \frac{e^{-2ds}}{2} \Big( 1 + \cos 2a \, \frac{\sin 2\Delta}{2\Delta} \Big). $$

# %% tags=["parameters"]
num_steps = 4000
num_samples = 2000
features = 256
grid_size = 9

# %% [markdown]
# ## Data with conditions
#
# A file with arrays `x` and `cond` is a data set. Frequencies are from 1 to 4, damping from 0.5 to 4. A rectangle in
# the middle is left out, to test there.

# %%
import matplotlib.pyplot as plt
import numpy as np

delta, tau, s = 1.2, 0.2, np.linspace(0, 1, 64)
low, high = np.array([1.0, 0.5]), np.array([4.0, 4.0])
hole_low, hole_high = np.array([2.2, 1.5]), np.array([2.8, 2.5])


def clean(c, phase):
    """The signal without noise, [N, 64], for c [N, 2] and phase [N]."""
    f, d = c[:, :1], c[:, 1:]
    return np.exp(-d * s) * np.cos(2 * np.pi * f * s + phase[:, None])


def simulate(c, draw):
    x = clean(c, draw.uniform(-delta, delta, len(c))) + tau * draw.normal(size=(len(c), 64))
    return x[..., None].astype(np.float32)  # [N, 64, 1]: one channel


draw = np.random.default_rng(0)
c = draw.uniform(low, high, (30_000, 2))
c = c[~np.all((c > hole_low) & (c < hole_high), axis=1)]
np.savez("oscillations.npz", x=simulate(c, draw), cond=c.astype(np.float32))
print(f"{len(c)} signals with conditions")

# %% [markdown]
# ## The model
#
# `configs/signals.py` is the starting point for signals. Its U-Net is for long ones; for 64 values an MLP suffices.
# `with_data` is what `--data=FILE` does on the command line: it reads the shape, sets the noise levels by the data, and
# gives the network the size of `cond`.

# %%
import run_lib
from config_lib.spec import spec
from configs.own_data import with_data
from configs.signals import get_config
from models import MLP

config = get_config()
config.network = spec(MLP, features=features, num_layers=3)
config.training.update(num_steps=num_steps, batch_size=512, ema=0.998, eval_every=num_steps, checkpoint_every=num_steps)
config.optimizer.learning_rate = 2e-3
with_data(config, "oscillations.npz")
print("config.network.cond_dim:", config.network.cond_dim)

# %%
complete = run_lib.train(config, "conditioned", show=True)

# %% [markdown]
# ## Samples against the exact distribution
#
# Conditions are in their own units: the scale measured in training is in `config.json`. The first condition is in the
# middle of the rectangle that was left out.

# %%
import jax

model = run_lib.load("conditioned")
conditions = {"left out": (2.5, 2.0), "slow": (1.4, 1.0), "fast": (3.6, 3.0)}


def exact_moments(f, d):
    """Mean and standard deviation [64] of p(x | c)."""
    a, sinc = 2 * np.pi * f * s, lambda z: np.sin(z) / z
    mean = np.exp(-d * s) * np.cos(a) * sinc(delta)
    square = np.exp(-2 * d * s) / 2 * (1 + np.cos(2 * a) * sinc(2 * delta))
    return mean, np.sqrt(square - mean**2 + tau**2)


def compared(x, f, d):
    """Root mean squares over s of the error of the mean, and of the std; both relative to the exact std."""
    mean, std = exact_moments(f, d)
    rms = lambda z: float(np.sqrt(np.mean(z**2)))  # noqa: E731
    return rms((x.mean(0) - mean) / std), rms(x.std(0) / std - 1)


found, floor = {}, {}
pictures = plt.figure(figsize=(12, 2.8), layout="constrained").subplots(1, 3, sharey=True)
for k, (axes, (name, at)) in enumerate(zip(pictures, conditions.items(), strict=True)):
    x = model.sample(jax.random.key(k), num_samples, cond=np.tile(np.float32(at), (num_samples, 1)))[..., 0]
    found[name] = compared(x, *at)
    floor[name] = compared(simulate(np.tile(at, (num_samples, 1)), draw)[..., 0], *at)
    mean, std = exact_moments(*at)
    axes.plot(s, x[:6].T, "C0", lw=0.6, alpha=0.4)
    axes.fill_between(s, mean - std, mean + std, color="0.8", label="exact mean ± std")
    axes.plot(s, x.mean(0), "C0", label="samples: mean")
    axes.plot(s, x.mean(0) + x.std(0), "C0--", lw=1, label="samples: mean ± std")
    axes.plot(s, x.mean(0) - x.std(0), "C0--", lw=1)
    axes.set(title=f"{name}: f = {at[0]}, d = {at[1]}", xlabel="s")
pictures[0].legend(frameon=False, fontsize=7)
for name in conditions:
    print(f"{name:8}  mean: error {found[name][0]:.3f} std (floor {floor[name][0]:.3f}),", end=" ")
    print(f"std: {found[name][1]:.3f} (floor {floor[name][1]:.3f})")

# %% [markdown]
# The floor is the same figure of as many simulated signals. Mean and std do not show whether a signal has one phase at
# all its times. The correlation of $x(0)$ with $x(s)$ does, and it has an exact value too, since
# $\mathbb E[\cos \varphi \cos(a + \varphi)] = \tfrac12 \cos a \, [1 + \sin(2\Delta)/2\Delta]$.


# %%
def exact_correlation(f, d):
    """The correlations [64] of x(0) with x(s)."""
    a = 2 * np.pi * f * s
    product = np.exp(-d * s) / 2 * np.cos(a) * (1 + np.sin(2 * delta) / (2 * delta))
    mean, std = exact_moments(f, d)
    return (product - mean[0] * mean + tau**2 * (s == 0)) / (std[0] * std)


at = conditions["left out"]
x = model.sample(jax.random.key(0), num_samples, cond=np.tile(np.float32(at), (num_samples, 1)))[..., 0]
correlation = np.corrcoef(x.T)[0]
correlation_error = float(np.abs(correlation - exact_correlation(*at)).max())
print(f"largest error of a correlation: {correlation_error:.3f}, of {np.ptp(exact_correlation(*at)):.2f} in range")

# %% [markdown]
# ## The inverse: parameters from a signal
#
# `log_prob` is $\log p(x \mid c)$. Over a grid of conditions it is the likelihood of the parameters, and with a uniform
# prior their posterior. The exact likelihood is an integral over the phase, which a sum over 400 phases gives.

# %%
from sde_lib.likelihood.divergence import Exact

true = np.array([2.5, 2.0])
signal = simulate(true[None], np.random.default_rng(7))[0]
f_grid, d_grid = np.linspace(2.2, 2.8, grid_size), np.linspace(0.8, 3.2, grid_size)
grid = np.stack(np.meshgrid(f_grid, d_grid, indexing="ij"), -1).reshape(-1, 2)
exactly = model.replace(likelihood=model.likelihood.replace(divergence=Exact()))
learned_log = exactly.log_prob(
    jax.random.key(0), np.tile(signal, (len(grid), 1, 1)), cond=grid.astype(np.float32)
).value

phases = np.linspace(-delta, delta, 401)[:-1] + delta / 400
squares = [np.sum((signal[:, 0] - clean(np.tile(c, (400, 1)), phases)) ** 2, axis=1) for c in grid]
exact_log = np.array([np.logaddexp.reduce(-square / (2 * tau**2)) for square in squares])
exact_log += -np.log(400) - 32 * np.log(2 * np.pi * tau**2)


def posterior(log_likelihood):
    """The posterior on the grid [n, n], its mean [2] and its standard deviation [2]."""
    p = np.exp(np.asarray(log_likelihood, np.float64) - np.max(log_likelihood))
    p /= p.sum()
    mean = p @ grid
    return p.reshape(grid_size, grid_size), mean, np.sqrt(p @ (grid - mean) ** 2)


learned_p, learned_mean, learned_std = posterior(learned_log)
exact_p, exact_mean, exact_std = posterior(exact_log)
for name, mean, std in (("learned", learned_mean, learned_std), ("exact", exact_mean, exact_std)):
    print(f"{name:7}  f = {mean[0]:.3f} ± {std[0]:.3f}, d = {mean[1]:.2f} ± {std[1]:.2f}")
print(f"true     f = {true[0]}, d = {true[1]}")
offset = np.asarray(learned_log) - exact_log
print(f"log p(x | c), learned - exact: {offset @ exact_p.ravel():.2f} nats on average over the posterior")
pictures = plt.figure(figsize=(7.5, 3), layout="constrained").subplots(1, 2, sharey=True)
for axes, name, p in zip(pictures, ("learned", "exact"), (learned_p, exact_p), strict=True):
    axes.pcolormesh(f_grid, d_grid, p.T, cmap="Blues")
    axes.plot(*true, "r+", ms=10)
    axes.set(title=f"p(f, d | x), {name}", xlabel="f")
_ = pictures[0].set_ylabel("d")

# %% [markdown]
# Next: [data augmentation](10_data_augmentation.ipynb) with class-conditional samples. More kinds of conditions are in
# [conditioning.md](../docs/conditioning.md).
