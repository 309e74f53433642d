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
# # 12 · Text: Markov chains on tokens, and bounds that are exact
#
# **At the end** you have compared the bounds of a model of tokens with the exact −log p, for each of 27 sequences. You
# have drawn samples in three ways, seen which are exact, and filled gaps. It takes a minute on two cores.
# [docs/text.md](../docs/text.md) trains a model of English with the same parts.
#
# A forward process replaces tokens. Each token of $x_0$ is still there at time $t$ with probability $\alpha(t)$.
# Otherwise it is a mask, or a random token. A network learns $q_{iv} = p(x_0^i = v \mid x_t)$. That determines the
# reverse process, as a score does for an SDE.

# %% tags=["parameters"]
repeats = 200  # estimates of the bound for each sequence
num_samples = 20_000

# %% [markdown]
# ## A text of which everything is known
#
# The sequences have three tokens of three values, from a Markov chain. So all 27 probabilities are known, and the exact
# network is a sum over them. Its output is the logits of each token given the others.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from sde_lib.discrete import (
    AncestralTokens,
    AnyOrder,
    EulerTokens,
    MaskedProcess,
    TokenModel,
    TokenSampler,
    UniformProcess,
)

chain = np.array([[0.7, 0.2, 0.1], [0.15, 0.25, 0.6], [0.4, 0.5, 0.1]])
sequences = np.array(list(itertools.product(range(3), repeat=3)))
p = chain[sequences[:, 0], sequences[:, 1]] * chain[sequences[:, 1], sequences[:, 2]] / 3


def exact(process):
    def network(params, x, c_noise, *, cond=None, key=None, train=False):
        rho = jnp.minimum(c_noise, 1 - 1e-6)[:, None, None]
        kernel = jnp.where(x[:, None] == sequences[None], 1 - rho, 0.0) + rho * process.stationary()[x][:, None]
        others = jnp.prod(jnp.where(jnp.eye(3, dtype=bool), 1.0, kernel[:, :, None]), axis=3)
        return jnp.log(jnp.einsum("n,bnl,nlv->blv", p, others, sequences[..., None] == np.arange(3)))

    return network


# %% [markdown]
# ## The bound is −log p, for each sequence
#
# With this network the bound of either process is an equality. An estimate of it draws masks, or times, so it scatters;
# its standard error is returned with it.

# %%
bits = {}
for process in (MaskedProcess(num_tokens=3), UniformProcess(num_tokens=3)):
    model = TokenModel(sde=process, network=exact(process), shape=(3,))
    found, _ = model.bits_per_token(jax.random.key(0), np.repeat(sequences, repeats, axis=0), num_times=16)
    bits[type(process).__name__] = np.asarray(found).reshape(27, repeats)

right = -np.log2(p) / 3
apart = {name: (found.mean(1) - right) / (found.std(1) / np.sqrt(repeats)) for name, found in bits.items()}
for name, found in bits.items():
    worst = np.abs(found.mean(1) - right).max()
    print(f"{name}: at most {worst:.3f} bits per token apart, {np.abs(apart[name]).max():.1f} standard errors")

# %%
figure, axes = plt.subplots(figsize=(4.5, 4.5))
axes.plot(right, right, color="gray", lw=1)
for name, found in bits.items():
    axes.errorbar(right, found.mean(1), found.std(1) / np.sqrt(repeats), fmt=".", label=name)
axes.set(xlabel="−log₂ p(x)/3", ylabel="bits per token, the bound")
axes.legend()
plt.show()

# %% [markdown]
# ## Three samplers
#
# A step that replaces several tokens draws them independently, and so makes an error of order 1/N. `AnyOrder` shows one
# token per step here: with exact conditionals it has no error.

# %%
place = {tuple(row): k for k, row in enumerate(sequences)}


def distance(x):
    """The total variation between the frequencies of samples and p."""
    counts = np.bincount([place[tuple(row)] for row in np.asarray(x)], minlength=27)
    return 0.5 * np.abs(counts / len(x) - p).sum()


process = MaskedProcess(num_tokens=3)
model = TokenModel(sde=process, network=exact(process), shape=(3,))
distances = {}
for solver, steps in ((EulerTokens(), (2, 4, 8)), (AncestralTokens(), (2, 4, 8)), (AnyOrder(), (3,))):
    for n in steps:
        sampled = model.replace(sampler=TokenSampler(solver=solver, num_steps=n)).sample(jax.random.key(n), num_samples)
        distances[type(solver).__name__, n] = distance(sampled)
noise = 0.5 * np.sum(np.sqrt(2 * p * (1 - p) / (np.pi * num_samples)))  # of exact samples, on average
for (name, n), found in distances.items():
    print(f"{name:16} {n} steps: {found:.4f}")
print(f"exact samples, on average: {noise:.4f}")

# %% [markdown]
# ## Filling gaps
#
# A masked process is conditioned on the known tokens by leaving them in their places. Here the middle one is given.

# %%
model = model.replace(sampler=TokenSampler(solver=AnyOrder(), num_steps=3))
completed = model.infill(jax.random.key(9), np.array([[-1, 2, -1]]), n=num_samples)[0]
conditional = np.where(sequences[:, 1] == 2, p, 0) / p[sequences[:, 1] == 2].sum()
counts = np.bincount([place[tuple(row)] for row in completed], minlength=27) / num_samples
infilled = 0.5 * np.abs(counts - conditional).sum()
print(f"total variation between the completions and p(x | x_1 = 2): {infilled:.4f}")

# %% [markdown]
# Next: `python main.py --config=configs/text.py --workdir=runs/text` trains a transformer on English.
# [docs/text.md](../docs/text.md) has the commands, the second route (bits under an SDE), and what to report.
