"""--mode=sample: samples of a trained model, drawn and cached batch by batch, then joined in one file."""

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from io_lib import pictures, workdir
from io_lib.shards import Shards, fill, mapped
from run_modes.page import write_page
from run_modes.sample_conditions import SampleConditions, conditions_of_samples
from run_modes.sample_files import write_samples
from run_modes.trained import Trained, made_with, open_trained, require_finite, require_score
from sde_lib import GaussianSDE, Sampler, ScoreModel, expand, sample_keys
from sde_lib.sde import per_time
from sde_lib.training.xla import jit

PRINTED = 3  # texts


def sample(
    directory: str | Path,
    num_samples: int | None = None,
    seed: int = 0,
    config: ConfigDict | None = None,
    animate: bool = False,
    devices: list | None = None,
    step: int | None = None,
    cond: Any = None,
    out: str | Path | None = None,
) -> np.ndarray | None:
    """Draws samples into samples/samples.npz (key `samples`); samples.png, .wav or .txt next to it show the first.

    They are those of the checkpoint of `step`, or of the newest. `cond`, an array, a dict of arrays or a file of them,
    has a row for each sample, used in turn: sample i has row i mod R. Without it the conditions are those of the data
    (`run_modes.conditions`). `num_samples` is 1000, or the number of rows.

    Images are uint8 [N, H, W, C], other data float32 [N, *shape] in the units of the data (float64 far from 0). The
    result is a read-only memory map of the file. Sample i is a function of (seed, i): neither
    config.sampling.batch_size nor the devices change it (except under Langevin's batch norm). Batches are cached under
    samples/shards/ as they are drawn, so a call resumes after a kill, or draws only the missing samples of a larger
    number. Samples from another step, seed, sampler, label or guidance are cached separately. `animate` adds
    samples/animation.gif, the path from noise to data. `out` is a folder for one file per sample: PNG, WAV, txt or npy
    (`run_modes.sample_files`).

    After SIGTERM or Ctrl-C it ends after the current batch and returns None. FloatingPointError for a sample that is
    not finite. ConfigError as `load`, and for an animation that cannot be drawn.
    """
    trained = open_trained(directory, config, devices, step)
    require_score(trained, "samples")
    if animate:
        require_animation(trained)
    conditions = conditions_of_samples(trained, cond=cond)
    drawn = samples_of(trained, num_samples or conditions.rows or 1000, seed, conditions)
    if drawn is None:
        return None
    if animate:
        draw_animation(trained, drawn[0], seed, conditions)
    for text in getattr(trained.experiment.form, "texts", lambda x: [])(drawn[0][:PRINTED]):
        print(f"──\n{text}")
    if out is not None:
        write_samples(out, drawn[0], trained.experiment.form)
    write_page(directory)
    return drawn[0]


def samples_of(
    trained: Trained, count: int, seed: int, conditions: SampleConditions | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples 0 to count − 1 [count, *shape] and the NFE of each [count], as memory maps of samples/samples.npz.

    Draws only the samples that are not cached; None if a signal stopped it.
    """
    folder = trained.directory / "samples"
    conditions = conditions or conditions_of_samples(trained)
    file, shards = folder / "samples.npz", shards_of(trained, seed, conditions)
    if not shards.is_union(file, count):
        with workdir.lock(trained.directory, "sampling"):
            if not draw(trained, shards, count, seed, conditions):
                return None
            shards.union(file, count)
    x, each = mapped(file), mapped(file, "nfe")
    if not shards.is_union(file, count):
        raise ConfigError(f"{file} was replaced by another process: sample again when that process has ended")
    trained.experiment.form.preview(folder / "samples", x)
    nfe = f"NFE {np.mean(each):.4g}"
    print(f"{count} samples of step {trained.step} (EMA), seed {seed}, {nfe}: {file}")
    if trained.experiment.conditions is not None or trained.experiment.classifier is not None or conditions.rows:
        print(conditions.law)
    return x, each


def shards_of(trained: Trained, seed: int, conditions: SampleConditions | None = None) -> Shards:
    """The cache of samples of this model, sampler, seed and conditions. It depends on neither batch size nor devices.

    Langevin's batch norm is the exception: with it, the batch size is part of the key.
    """
    return cache_of(trained, "samples", seed, (conditions or conditions_of_samples(trained)).made)


def cache_of(trained: Trained, folder: str, seed: int, used: dict[str, Any]) -> Shards:
    """The cache in `folder` of what this model, sampler, guidance and seed draw, and `used` besides."""
    config, choice = trained.config, trained.config.sampling.use
    made = made_with(trained, seed, {"sampler": config.sampling[choice], **used, **trained.guidance_made()})
    if coupled(trained):
        made["batch_size"] = whole_batch(trained, config.sampling.batch_size)
    return Shards(trained.directory / folder / "shards", f"step{trained.step}_seed{seed}_{choice}", made)


def coupled(trained: Trained) -> bool:
    """Whether a sample depends on others in its batch."""
    return getattr(trained.experiment.sampler, "coupled", False)


def whole_batch(trained: Trained, size: int) -> int:
    """The batch size, rounded up to a multiple of the number of devices."""
    if size < 1:
        raise ConfigError(f"config.sampling.batch_size={size}: expected at least 1")
    return trained.experiment.devices.whole(size)


def batch_size(trained: Trained, left: int) -> int:
    """The rows of a batch, for all devices, when `left` are to be drawn."""
    size = trained.config.sampling.batch_size
    return whole_batch(trained, size if coupled(trained) else min(size, max(1, left)))


def draw(trained: Trained, shards: Shards, count: int, seed: int, conditions: SampleConditions) -> bool:
    """Draws the missing of samples 0 to count − 1, one file per batch; False if SIGTERM or Ctrl-C stopped it.

    FloatingPointError for a sample that is not finite; the files of earlier batches stay.
    """
    devices, done = trained.experiment.devices, shards.count()
    size = batch_size(trained, count - done)
    if done:
        print(f"{min(done, count)} of {count} samples are there already: {shards.folder}")
    elif any(shards.folder.parent.glob("*/")):
        print(f"{shards.folder.parent} has samples of another step, seed, sampler or class: new ones are drawn")
    key, model = jax.random.key(seed), jax.device_put(trained.model, devices.replicated)

    def batch(first: int) -> tuple[np.ndarray, np.ndarray]:
        indices = jax.device_put(jnp.arange(first, first + size), devices.batch)
        x, nfe = jax.device_get(model.with_nfe(key, indices, conditions.of(indices)))
        require_finite(x, first, "sample", "the score is not finite there, or the sampler's max_steps is too small")
        return trained.model.to_samples(x), nfe

    note = lambda x, nfe: f"NFE {np.mean(nfe):.4g}"  # noqa: E731
    return fill(shards, count, batch, "sample", note)


# Animation


def require_animation(trained: Trained) -> None:
    """ConfigError if the samples share no times, or if their form has no animation."""
    if not hasattr(trained.experiment.sampler, "path"):
        raise ConfigError(
            f"config.sampling.{trained.config.sampling.use}: {type(trained.experiment.sampler).__name__} has different "
            f"times for each sample, so it cannot be animated; set config.sampling.use to a sampler with a grid"
        )
    if not hasattr(trained.experiment.form, "frames"):
        shape = tuple(trained.config.shape)
        raise ConfigError(f"config.shape is {shape}: only images and vectors of 1 or 2 coordinates can be animated")


def draw_animation(trained: Trained, x: np.ndarray, seed: int, conditions: SampleConditions, frames: int = 60) -> None:
    """Writes samples/animation.gif: the path of the first samples from noise to data; the last frame is x.

    A state is shown as x_t/√(α² + σ²), so that all noise levels have the contrast of the data.
    """
    form: Any = trained.experiment.form  # with `frames`, by require_animation
    x = np.asarray(x[: form.shown])
    keep = np.unique(np.linspace(0, trained.experiment.sampler.num_steps, frames).round().astype(int))

    cond = conditions.of(np.arange(len(x)))
    if trained.experiment.conditions is not None:
        cond = trained.experiment.conditions.forward(cond, len(x))  # here: a tracer of values far from 0 loses digits

    @jit
    def path(model: ScoreModel, cond: Any) -> tuple[jax.Array, jax.Array]:
        numbers, sde, sampler = jnp.arange(len(x)), model.sde, cast(Sampler, model.sampler)  # by require_animation
        score_fn = model.score_given(cond)
        times, states = sampler.path(sample_keys(jax.random.key(seed), numbers), sde, score_fn, model.shape, keep)
        if hasattr(sde, "alpha"):
            kernel = cast(GaussianSDE, sde)
            states /= expand(jnp.sqrt(per_time(kernel.alpha(times) ** 2 + kernel.sigma(times) ** 2, times)), states)
        return times, states

    times, states = jax.device_get(path(trained.model.replace(conditions=None), cond))
    drawn = form.frames(times, states, x)
    file = trained.directory / "samples" / "animation.gif"
    pictures.save_gif(file, drawn)
    print(f"{len(drawn)} frames of the path of {len(x)} samples: {file}")
