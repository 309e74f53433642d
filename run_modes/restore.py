"""--mode=restore: several answers to each measurement y = A x + σ_y n, drawn from p(x | y) by a trained model.

    OUT/NAME_0.png …      answers to the measurement NAME; of sounds WAV, of texts txt, of other data none
    OUT/restored.npz      all answers [N, n, *shape], in the units of the data or as uint8 images
    OUT/restored.png      [observed | answers | mean | std], and the truth where it is known, of the first measurements
    OUT/report.json       how well each measurement is met; where the truth is known PSNR and SSIM of the mean

Answer j to measurement i is a function of (seed, i, j). Answers are cached as samples are, so a call resumes after a
kill. How well y is met is the root mean square of A x − y, next to σ_y; for images it includes the rounding to 8 bits.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build, spec
from eval_lib.restoration import psnr, ssim
from io_lib import workdir
from io_lib.metrics import Progress
from io_lib.restored_pictures import save_restored
from io_lib.shards import Shards, fill, mapped
from run_modes.measurements import Measurements, read_measurements
from run_modes.page import write_page
from run_modes.sample import batch_size, cache_of
from run_modes.sample_conditions import SampleConditions, conditions_of_samples
from run_modes.trained import Trained, open_trained, require_finite
from sde_lib.noise import answer_keys
from sde_lib.posterior import MMPS, Observation, adjoint

SHOWN = 8  # measurements in the picture


def restore(
    directory: str | Path,
    task: str,
    images: Any = None,
    truth: Any = None,
    mask: Any = None,
    noise_std: float | None = None,
    num_samples: int = 4,
    seed: int = 0,
    config: ConfigDict | None = None,
    out: str | Path | None = None,
    devices: list | None = None,
    step: int | None = None,
    cond: Any = None,
) -> np.ndarray | None:
    """Draws `num_samples` answers to each measurement into the folder `out`, DIRECTORY/restored/TASK by default.

    `task`, `images`, `truth`, `mask` and `noise_std` are described in `run_modes.measurements`. The method is
    config.restore.method, a posterior score or Replacement, with the sampler that config.sampling.use names. A model
    that is conditional requires config.sampling.label, or `cond` with a row for each measurement.

    Returns all answers [N, n, *shape], a read-only memory map: uint8 for images, else in the units of the data; None if
    SIGTERM or Ctrl-C stopped it. ConfigError of one line for measurements that do not fit; FloatingPointError for an
    answer that is not finite.
    """
    if task is None:
        raise ConfigError("--task=NAME is required for restoration: inpaint, upscale:2, colorize, deblur:1.0, ct:30, …")
    trained = open_trained(directory, config, devices, step)
    measured = read_measurements(trained.experiment, task, images, truth, mask, noise_std, seed)
    conditions = required_conditions(trained, len(measured.names), cond)
    folder = Path(out) if out else trained.directory / "restored" / task.replace(":", "_")
    shards = shards_of(trained, measured, num_samples, seed, conditions)
    with workdir.lock(trained.directory, "restoring"):
        if not draw(trained, measured, shards, num_samples, seed, conditions):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        file, count = folder / "restored.npz", len(measured.names) * num_samples
        if not shards.is_union(file, count):
            shards.union(file, count)
    answers = mapped(file).reshape(len(measured.names), num_samples, *trained.experiment.shape)
    write_results(trained, measured, answers, folder)
    write_page(directory)
    return answers


def required_conditions(trained: Trained, count: int, cond: Any) -> SampleConditions | None:
    """What answers are conditioned on; None for an unconditional model.

    ConfigError if it is not given, and for rows of another number than the `count` of measurements, or 1.
    """
    experiment, label = trained.experiment, trained.config.sampling.get("label", -1)
    classes = experiment.num_classes
    conditional = experiment.conditions is not None or classes > 0
    if conditional and cond is None and (label < 0 or not classes):
        by_label = f"--config.sampling.label=0 … {classes - 1}, or " if classes else ""
        raise ConfigError(f"the model is conditional: set {by_label}--cond=FILE with a row for each measurement")
    found = conditions_of_samples(trained, cond=cond) if conditional or cond is not None else None
    if found is not None and found.rows not in (None, 1, count):
        raise ConfigError(f"--cond has {found.rows} rows for {count} measurements: expected one, or one each")
    return found


def default_section() -> ConfigDict:
    """config.restore of runs of earlier versions, which is that of configs/base.py."""
    return ConfigDict({"method": spec(MMPS), "operator": ConfigDict()})


def method_of(config: ConfigDict) -> Any:
    """config.restore.method; MMPS() for runs of earlier versions."""
    return build(config.get("restore", default_section()).method, "config.restore.method")


def shards_of(
    trained: Trained, measured: Measurements, answers: int, seed: int, conditions: SampleConditions | None
) -> Shards:
    """The cache of these answers: row r is answer r mod n to measurement ⌊r/n⌋."""
    section = trained.config.get("restore", default_section()).method
    used = {"task": measured.task, "measured": measured.digest(), "answers": answers, "method": section}
    return cache_of(trained, "restored", seed, {"restore": used, **(conditions.made if conditions else {})})


def draw(
    trained: Trained, measured: Measurements, shards: Shards, n: int, seed: int, conditions: SampleConditions | None
) -> bool:
    """Draws the missing answers, one file per batch; False if a signal stopped it."""
    devices, count = trained.experiment.devices, len(measured.names) * n
    model, key = jax.device_put(trained.model, devices.replicated), jax.random.key(seed)
    method, done = method_of(trained.config), shards.count()
    size = batch_size(trained, count - done)
    if done > 0:
        print(f"{min(done, count)} of {count} answers are there already: {shards.folder}")

    def batch(first: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(first, first + size)
        i, j = np.minimum(rows // n, len(measured.names) - 1), rows % n
        try:
            given = model.given(measured.observation.take(i), method)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.restore.method: {error}") from error
        keys = jax.device_put(answer_keys(key, jnp.asarray(i), jnp.asarray(j)), devices.batch)
        x, nfe = jax.device_get(given.of_keys(keys, None if conditions is None else conditions.of(i)))
        require_finite(x, first, "answer", "the posterior's score is not finite there: try more iterations, or noise")
        return model.to_samples(x), nfe

    return fill(shards, count, batch, "answer", lambda x, nfe: f"NFE {np.mean(nfe):.4g}")


# Results


def write_results(trained: Trained, measured: Measurements, answers: np.ndarray, folder: Path) -> None:
    """Writes a file for each answer, the picture and the report, and prints the report's means."""
    form, rows = trained.experiment.form, []
    first, shown = measured.observation.take(np.arange(min(SHOWN, len(answers)))), form.to_data(answers[:SHOWN])
    low, high = data_range(trained.experiment, shown)
    with Progress(len(answers), 0, "measurement") as progress:
        for i, (name, x) in enumerate(zip(measured.names, answers, strict=True)):
            if form.suffix != "npy":  # restored.npz has the arrays
                for j, one in enumerate(x):
                    form.write(folder / f"{name}_{j}.{form.suffix}", one)
            rows.append({"name": name, **figures(measured, i, form.to_data(x), high - low)})
            progress.update(i + 1, lambda: "written")
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "name"}
    report = {"task": measured.task, "noise_std": float(measured.observation.noise_std), "mean": means, "each": rows}
    workdir.write_atomic(folder / "report.json", json.dumps(report, indent=1))
    truth = None if measured.truth is None else np.asarray(measured.truth[:SHOWN], np.float32)
    save_restored(folder / "restored.png", as_event(first, shown[:, 0]), shown, truth, low, high)
    print(f"noise_std {report['noise_std']:g}  " + "  ".join(f"{key} {value:.4g}" for key, value in means.items()))
    print(f"{answers.shape[1]} answers to each of {len(answers)} measurements: {folder}")


def figures(measured: Measurements, i: int, x: np.ndarray, width: float) -> dict[str, float]:
    """Of the answers x [n, *shape] to measurement i, in the units of the data, whose range is `width`.

    misfit is √mean (A x − y)² over what is measured, spread √mean Var x. With the truth: error is √mean (mean − truth)²
    of the answers' mean; psnr and ssim are the mean's too, psnr_of_one is the average of the answers'.
    """
    observation = measured.observation.take(np.array([i]))
    residual = np.asarray(observation.operator(jnp.asarray(x))) - np.asarray(observation.y)
    measured_part = np.mean(np.broadcast_to(measured.known_of(i), residual.shape))
    found = {"misfit": float(np.sqrt(np.mean(residual**2) / measured_part))}
    if len(x) > 1:
        found["spread"] = float(np.sqrt(np.mean(np.var(x, axis=0, ddof=1))))
    if measured.truth is None:
        return found
    mean, truth = x.mean(axis=0), np.asarray(measured.truth[i], np.float32)
    found["error"] = float(np.sqrt(np.mean((mean - truth) ** 2)))
    found["psnr"] = psnr(mean, truth, width)
    found["psnr_of_one"] = float(np.mean([psnr(one, truth, width) for one in x]))
    if truth.ndim > 1:
        found["ssim"] = ssim(mean, truth, width)
    return found


def data_range(experiment: Any, x: np.ndarray) -> tuple[float, float]:
    """The transform's low and high, else those of the answers x."""
    transform = experiment.transform
    return float(getattr(transform, "low", x.min())), float(getattr(transform, "high", x.max()))


def as_event(observation: Observation, like: np.ndarray) -> np.ndarray:
    """y in the space of the events: as it is, enlarged if the sizes divide, else the back projection Aᵀy."""
    y = np.broadcast_to(observation.y, (len(like), *np.shape(observation.y)[1:]))
    space, event = y.shape[1:-1], like.shape[1:-1]
    if like.ndim < 4 or (space == event and y.shape[-1] in (1, like.shape[-1])):
        return y
    if len(space) == len(event) and y.shape[-1] == like.shape[-1] and not any(np.mod(event, space)):
        for axis, factor in enumerate(np.floor_divide(event, space), start=1):
            y = y.repeat(factor, axis=axis)
        return y
    return np.asarray(adjoint(observation.operator, jnp.asarray(like))(jnp.asarray(y)))
