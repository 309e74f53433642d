"""Quality of samples against the number of score evaluations, for every sampler.

    python -m benchmarks.samplers [--workdir runs/digits] [--results samplers.json] [--picture docs/samplers.png]

Three problems under VP, each ending at t = 10⁻³:

    mixture_2d     exact score of 8 Gaussians in the plane; sliced Wasserstein distance to exact samples
    mixture_64d    exact score of 10 Gaussians in 64 dimensions of very different scales; the same distance
    digits         the network of a work directory (`make digits`); Fréchet distance in pixels to the training images

A result is the distance divided by its floor, that of the same number of exact samples, or of the test digits. 1.0
matches real samples; values below 1 are within noise. All samplers start from the same draws of the prior. Each
measurement is added to the results file at once, and none in the file is repeated. A step is compiled once per solver,
for any number of steps.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sampler_problems import PROBLEMS, Problem
from sde_lib import (
    Adaptive,
    AdaptiveSDE,
    EDMGrid,
    LogSNRGrid,
    PowerGrid,
    ProbabilityFlowODE,
    Sampler,
    UniformGrid,
    as_is,
    fold,
    last_mean,
    sample_keys,
)
from sde_lib.sampling import prior_draw
from sde_lib.solvers import (
    DDIM,
    DEIS,
    SEEDS2,
    Ancestral,
    DPMSolver,
    DPMSolverPlusPlus,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    UniPC,
)

T_END = 1e-3
S_CHURN = 5.0  # of EDMHeun, whose gamma is S_CHURN/N for N steps
GRIDS = {grid.__name__: grid(t_end=T_END) for grid in (UniformGrid, PowerGrid, LogSNRGrid, EDMGrid)}
PUBLISHED = PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(norm="batch"))
PAPER = PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(norm="batch"), corrector_first=False)

# name: (solver, its grid, final denoising)
NOISY = {
    "predictor–corrector, as published": (PUBLISHED, "UniformGrid", last_mean),
    "predictor–corrector, algorithm 1": (PAPER, "UniformGrid", last_mean),
    "Euler–Maruyama": (EulerMaruyama(), "PowerGrid", last_mean),
    "reverse diffusion": (ReverseDiffusion(), "PowerGrid", last_mean),
    "ancestral": (Ancestral(), "PowerGrid", last_mean),
    "EDMHeun, churn": (EDMHeun(gamma=S_CHURN), "PowerGrid", as_is),
    "DPMSolverPlusPlus 2, tau=1": (DPMSolverPlusPlus(tau=1.0), "LogSNRGrid", last_mean),
    "SEEDS2": (SEEDS2(), "LogSNRGrid", last_mean),
}
FLOWS = {
    "Euler": (Euler(), "PowerGrid", as_is),
    "DDIM(0)": (DDIM(), "PowerGrid", as_is),
    "Heun": (Heun(), "PowerGrid", as_is),
    "EDMHeun": (EDMHeun(), "PowerGrid", as_is),
    "DPMSolver 2": (DPMSolver(order=2), "PowerGrid", as_is),
    "DPMSolver 3": (DPMSolver(order=3), "PowerGrid", as_is),
    "DPMSolverPlusPlus 2": (DPMSolverPlusPlus(order=2), "LogSNRGrid", as_is),
    "DPMSolverPlusPlus 3": (DPMSolverPlusPlus(order=3), "LogSNRGrid", as_is),
    "UniPC 2": (UniPC(order=2), "LogSNRGrid", as_is),
    "UniPC 3": (UniPC(order=3), "LogSNRGrid", as_is),
    "DEIS 2": (DEIS(order=2), "PowerGrid", as_is),
    "DEIS 3": (DEIS(order=3), "PowerGrid", as_is),
}
FIXED = NOISY | FLOWS
LONGEST = 2000  # evaluations, for the first samplers
# name: ((tolerance, noise) → sampler, tolerances)
ADAPTIVE = {
    "AdaptiveSDE": (
        lambda tol, noise: AdaptiveSDE(rel_tol=tol, t_end=T_END, noise=noise, denoise=last_mean),
        (0.5, 0.1, 0.02),
    ),
    "ProbabilityFlowODE": (
        lambda tol, _: ProbabilityFlowODE(ode=Adaptive(rtol=tol, atol=tol), t_end=T_END),
        (0.1, 0.02, 1e-3, 1e-5),
    ),
}


def sampler(name: str, budget: int, grid: str | None = None) -> Sampler:
    """The sampler of this name with as many steps as a budget of evaluations allows."""
    solver, own, denoise = FIXED[name]
    steps = max(1, budget // solver.nfe)
    if getattr(solver, "gamma", 0):
        solver = solver.replace(gamma=S_CHURN / steps)
    return Sampler(solver=solver, grid=GRIDS[grid or own], num_steps=steps, denoise=denoise)


@jax.jit
def step(solver, model, keys, k, state, t, s):
    return solver.step(fold(keys, k), state, t, s, model.sde, model.score)


def draw(sampler: Sampler, model, count: int, seed: int = 0) -> jax.Array:
    """The samples of `sampler`, by a Python loop over a compiled step instead of a compiled loop."""
    keys = sample_keys(jax.random.key(seed), jnp.arange(count))
    times = np.asarray(sampler.grid(model.sde, sampler.num_steps))
    state, keys = sampler.solver.init(prior_draw(keys, model.sde, model.shape)), fold(keys, 1)
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        state = step(sampler.solver, model, keys, k, state, t, s)
    return sampler.denoise(state, times[-1], model.sde, model.score)


@partial(jax.jit, static_argnames="count")
def draw_adaptively(sampler, model, count: int, seed: int = 0):
    keys = sample_keys(jax.random.key(seed), jnp.arange(count))
    return sampler.with_nfe(keys, model.sde, model.score, model.shape)


def settings(problem: Problem, long: bool):
    """Yields (name of the row, budget of evaluations or tolerance, () → (samples, evaluations)), cheap ones first."""
    rows = [(name, n) for n in problem.budgets for name in FIXED]
    rows += [(name, LONGEST) for name in (*FIXED,)[: problem.long] if long]
    for name, n in rows:
        chosen = sampler(name, n)
        yield name, n, lambda chosen=chosen: (draw(chosen, problem.model, problem.count), chosen.nfe)
    for name, (make, tolerances) in ADAPTIVE.items():
        for tolerance in tolerances:
            chosen = make(tolerance, problem.noise)
            yield name, tolerance, lambda chosen=chosen: draw_adaptively(chosen, problem.model, problem.count)


def grid_settings(problem: Problem, budget: int = 20):
    for name in FIXED:
        for grid in GRIDS:
            chosen = sampler(name, budget, grid)
            yield f"{name} on {grid}", budget, lambda c=chosen: (draw(c, problem.model, problem.count), c.nfe)


def measure(problem: Problem, rows, results: dict, save: Callable[[], None] = lambda: None) -> None:
    """Sets results["rows"][name][setting] = [evaluations, ratio] for the rows that are not there yet."""
    results |= {"floor": problem.floor, "spread": problem.spread}
    for name, setting, run in rows:
        found = results.setdefault("rows", {}).setdefault(name, {})
        if str(setting) in found:
            continue
        start = time.perf_counter()
        x, evaluations = jax.device_get(run())
        good = np.isfinite(x).all() and np.abs(x).max() < 1e6
        ratio = problem.distance(x) / problem.floor if good else float("inf")
        found[str(setting)] = [float(np.mean(evaluations)), ratio]
        seconds = time.perf_counter() - start
        print(f"{name}, {setting}: {np.mean(evaluations):.0f} evaluations, {ratio:.2f} ({seconds:.1f} s)", flush=True)
        save()


def number(ratio: float) -> str:
    return "> 100" if ratio > 100 else f"{ratio:.3g}" if ratio >= 10 else f"{ratio:.2f}"


def markdown(result: dict) -> str:
    """Three tables: by budget, by tolerance, and by grid at one budget."""
    rows = result["rows"]
    budgets = sorted({int(n) for name in FIXED for n in rows.get(name, {})})
    lines = [f"floor {result['floor']:.4g}, ± {result['spread']:.0%}", ""]
    lines += ["| sampler | " + " | ".join(map(str, budgets)) + " |", "|---|" + "--:|" * len(budgets)]
    for name in FIXED:
        cells = [number(rows[name][str(n)][1]) if str(n) in rows.get(name, {}) else "" for n in budgets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| sampler | tolerance | evaluations | |", "|---|--:|--:|--:|"]
    for name in ADAPTIVE:
        for tolerance, (evaluations, ratio) in rows.get(name, {}).items():
            lines.append(f"| {name} | {tolerance} | {evaluations:.0f} | {number(ratio)} |")
    if any(" on " in name for name in rows):
        lines += ["", "| 20 evaluations | " + " | ".join(GRIDS) + " |", "|---|" + "--:|" * len(GRIDS)]
        for name in FIXED:
            cells = [number(next(iter(rows[f"{name} on {grid}"].values()))[1]) for grid in GRIDS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: str) -> None:
    """A column per problem: samplers with noise above, those of the probability flow below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(4.6 * len(results), 8.4), squeeze=False, sharey=True)
    kinds = {"with noise": (*NOISY, "AdaptiveSDE"), "probability flow": (*FLOWS, "ProbabilityFlowODE")}
    for column, (problem, result) in enumerate(results.items()):
        for axis, (kind, names) in zip(axes[:, column], kinds.items(), strict=True):
            axis.axhspan(1 - 2 * result["spread"], 1 + 2 * result["spread"], color="0.88")
            for i, name in enumerate(names):
                points = sorted(map(tuple, result["rows"].get(name, {}).values()))
                style = "--" if i >= 10 else "-"
                axis.plot(*zip(*points, strict=True) if points else ([], []), style, marker="osv^D"[i % 5], ms=4,
                          color=f"C{i % 10}", label=name)  # fmt: skip
            axis.set(xscale="log", yscale="log", ylim=(0.7, 60), title=f"{problem}, {kind}", xlabel="evaluations")
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("distance / floor")
    for axis in axes[:, -1]:
        axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(workdir: str, problems: list[str], results: str, picture: str, long: bool) -> None:
    file = Path(results)
    found = json.loads(file.read_text()) if file.exists() else {}
    for name in problems:
        problem, result = PROBLEMS[name](workdir), found.setdefault(name, {})
        save = lambda: file.write_text(json.dumps(found, indent=1))  # noqa: E731
        if name != "digits":
            measure(problem, grid_settings(problem), result, save)
        measure(problem, settings(problem, long), result, save)
        print(f"\n## {name}\n\n{markdown(result)}")
    plot(found, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/digits")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--results", default="samplers.json", help="file of the measurements")
    parser.add_argument("--picture", default="samplers.png")
    parser.add_argument("--long", action="store_true", help="also with 2,000 evaluations")
    main(**vars(parser.parse_args()))
