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
# # 3 · Samplers: error against evaluations
#
# **At the end** you have measured the error of nine samplers at equal numbers of score evaluations (NFE), seen the
# order of each solver, and written and checked a solver of your own. It takes a minute on two cores.
#
# A sampler has two errors. One is that of its steps. It can be measured without a network, on data whose score is
# known: this lesson does that. The other is that of the learned score, and a sampler with noise can correct a part of
# it: [docs/samplers.md](../docs/samplers.md) measures both on digits.

# %% tags=["parameters"]
num_samples = 4000
evaluations = (8, 16, 32, 64, 128)

# %% [markdown]
# The data are a mixture of two normals in the plane, under the variance preserving SDE. A sampler is a solver, a grid
# of times, a number of steps and a final denoising.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from eval_lib import sliced_wasserstein_distance
from sde_lib import VP, GaussianMixture, LogSNRGrid, Sampler, UniformGrid, as_is, sample_keys
from sde_lib.solvers import DEIS, Ancestral, DPMSolverPlusPlus, Euler, EulerMaruyama, Heun, PredictorCorrector, UniPC

sde = VP(t_min=1e-3)
data = GaussianMixture(
    means=jnp.array([[-1.0, 0.5], [0.8, -0.3]]), stds=jnp.array([[0.5, 0.4], [0.4, 0.6]]), weights=jnp.array([0.4, 0.6])
)
score = data.score_fn(sde)
keys = sample_keys(jax.random.key(0), jnp.arange(num_samples))
start = sde.prior_sample(keys, (2,))


def draw(solver, grid, nfe):
    """Samples from `start` with this many evaluations of the score."""
    steps = max(1, nfe // solver.nfe)
    sampler = Sampler(solver=solver, grid=grid, num_steps=steps, denoise=as_is)
    return np.asarray(jax.jit(lambda: sampler(keys, sde, score, (2,), x_T=start))())


# %% [markdown]
# ## Solvers of the probability flow
#
# The probability flow is an ordinary differential equation, $dx/dt = f - \tfrac12 g^2 \nabla \log p_t(x)$. From one
# start there is one right end. Heun's method in 1,000 steps is the reference here. The error is the root mean square
# over samples, and its slope in the double logarithmic picture is the order of the solver.

# %%
grid = LogSNRGrid()  # equidistant in the logarithm of the signal-to-noise ratio
reference = draw(Heun(), grid, 2000)
solvers = {
    "Euler": Euler(),
    "Heun": Heun(),
    "DPM-Solver++ 2M": DPMSolverPlusPlus(order=2),
    "UniPC 2": UniPC(order=2),
    "DEIS 3": DEIS(order=3),
}
errors = {
    name: [float(np.sqrt(np.mean((draw(solver, grid, nfe) - reference) ** 2))) for nfe in evaluations]
    for name, solver in solvers.items()
}
orders = {
    name: float(np.log2(e[-2] / e[-1]) / np.log2(evaluations[-1] / evaluations[-2])) for name, e in errors.items()
}
print("NFE".ljust(17) + "".join(f"{nfe:>10}" for nfe in evaluations) + "     order")
for name, found in errors.items():
    print(name.ljust(17) + "".join(f"{error:>10.1e}" for error in found) + f"{orders[name]:>10.2f}")

# %%
axes = plt.figure(figsize=(6, 3.6), layout="constrained").subplots()
for name, found in errors.items():
    axes.loglog(evaluations, found, "o-", label=name)
axes.set(xlabel="NFE", ylabel="error of the end point")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## Solvers of the reverse SDE
#
# With noise there is no right end, but there is a right distribution. Its distance to the data is measured by the
# sliced Wasserstein distance $W_2$, as a ratio to the floor: the distance of two sets of true examples. 1 is perfect.

# %%
truth, again = (data.sample(sample_keys(jax.random.key(seed), jnp.arange(num_samples))) for seed in (1, 2))
floor = sliced_wasserstein_distance(np.asarray(again), np.asarray(truth))
noisy = {
    "Euler–Maruyama": (EulerMaruyama(), UniformGrid()),
    "ancestral": (Ancestral(), UniformGrid()),
    "predictor–corrector": (PredictorCorrector(), UniformGrid()),
    "DPM-Solver++ SDE": (DPMSolverPlusPlus(order=2, tau=1.0), LogSNRGrid()),
    "DEIS 3 (no noise)": (DEIS(order=3), LogSNRGrid()),
}
ratios = {
    name: [sliced_wasserstein_distance(draw(*how, nfe), np.asarray(truth)) / floor for nfe in evaluations]
    for name, how in noisy.items()
}
print(f"floor {floor:.4f}\n" + "NFE".ljust(20) + "".join(f"{nfe:>8}" for nfe in evaluations))
for name, found in ratios.items():
    print(name.ljust(20) + "".join(f"{ratio:>8.2f}" for ratio in found))

# %% [markdown]
# ## A solver of your own
#
# A solver is one step from $t$ to $s < t$, and the number of evaluations that it takes. Then `check_solver` measures
# its order on exact scores, and whether it ends at the right distribution. It raises an error if the order is not the
# one that you state.

# %%
from sde_lib import check_solver, expand
from sde_lib.solvers import Solver, SolverState


class Midpoint(Solver):
    """x_s = x_t + (s − t) F(x_m, m), where m = (t + s)/2 and x_m is Euler's step to there."""

    @property
    def nfe(self) -> int:
        return 2

    def step(self, keys, state, t, s, sde, score_fn):
        m = 0.5 * (t + s)
        x_m = state.x + expand(m - t, state.x) * sde.flow_drift(state.x, t, score_fn(state.x, t))
        x = state.x + expand(s - t, state.x) * sde.flow_drift(x_m, m, score_fn(x_m, m))
        return SolverState(x, x)


report = check_solver(Midpoint(), order=2)

# %% [markdown]
# Next: [likelihoods with their error budget](04_likelihood.ipynb). Which sampler to take, and the same measurements for
# learned scores: [docs/samplers.md](../docs/samplers.md).
