"""Samples of a trained model: drawn batch by batch, kept as they come, put together at the end; and their way there."""

import json
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.spec import ConfigError, diff, to_json
from io_lib import pictures, workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import Progress
from io_lib.shards import Shards, mapped
from io_lib.signals import StopRequest
from run_classes import classes_of, num_classes
from run_parts import Layout, Parts, build_parts, digest, is_image, make_layout, picture_scale, restored, score_model
from sde_lib import ScoreModel, expand, sample_keys
from sde_lib.sde import per_time

# What may differ from the work directory's config when a trained model is used.
CHANGEABLE = ("config.sampling.", "config.eval.", "config.data.")
# What of the rest decides, with step, parameters, seed and sampler, what a sample is.
DECIDES = ("shape", "sde", "parameterization", "network", "transform")


class Trained(NamedTuple):
    """A work directory, opened: its model with the EMA parameters of a checkpoint, and the step of that."""

    directory: Path
    config: ConfigDict
    parts: Parts
    model: ScoreModel
    step: int
    layout: Layout


def open_trained(
    directory: str | Path, config: ConfigDict | None = None, devices: list | None = None, step: int | None = None
) -> Trained:
    """With the checkpoint of `step`, or the newest.

    ConfigError for what is no work directory, or not of this config, or has no such checkpoint.
    """
    try:
        directory, saved = Path(directory), workdir.load_config(directory)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    config = saved if config is None else config
    changed = [line for line in diff(saved, config) if not line.startswith(CHANGEABLE)]
    if changed:
        raise ConfigError(f"{directory} was trained with another config: {'; '.join(changed[:3])}")
    parts, layout = build_parts(config), make_layout(devices)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = restored(config, parts, layout, checkpoints, step, only=("step", "ema_params"))
    return Trained(directory, config, parts, score_model(config, parts, state.ema_params), int(state.step), layout)


def samples_of(trained: Trained, count: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples 0 to count − 1 [count, *shape] and the evaluations of each [count], as samples/samples.npz holds them.

    What is there already is kept, the rest drawn; None where a signal stopped it.
    """
    folder = trained.directory / "samples"
    file, shards = folder / "samples.npz", shards_of(trained, seed)
    if not shards.is_union(file, count):
        with workdir.alone(trained.directory, "sampling"):
            if not draw(trained, shards, count, seed):
                return None
            shards.union(file, count)
    x, evaluations = mapped(file), mapped(file, "evaluations")
    if not shards.is_union(file, count):
        raise ConfigError(f"{file} was replaced by another process: sample again when that is done")
    if is_image(trained.config, trained.parts):
        grid = pictures.image_grid(x[:256], scale=picture_scale(trained.config))
        pictures.save_png(folder / "samples.png", grid)
    nfe = f"{np.mean(evaluations):.4g} evaluations each"
    print(f"{count} samples of step {trained.step} (EMA), seed {seed}, {nfe}: {file}")
    return x, evaluations


def shards_of(trained: Trained, seed: int) -> Shards:
    """The files of this model's, sampler's and seed's samples: neither batch size nor devices change those.

    (Except with Langevin's batch norm, whose batches are then part of it.)
    """
    config, choice = trained.config, trained.config.sampling.use
    told = {"label": config.sampling.get("label", -1)} if num_classes(config) else {}
    if trained.model.guidance is not None:
        told["guidance"] = trained.model.guidance
    made = made_with(trained, seed, {"sampler": config.sampling[choice], **told})
    if coupled(trained):
        made["batch_size"] = whole_batch(trained, config.sampling.batch_size)
    return Shards(trained.directory / "samples" / "shards", f"step{trained.step}_seed{seed}_{choice}", made)


def made_with(trained: Trained, seed: int, used: dict) -> dict:
    """What decides a number that the model gave: itself, the seed, and what of the config was used."""
    described = {**{name: trained.config[name] for name in DECIDES}, **used}
    return json.loads(to_json(ConfigDict(described))) | {
        "step": trained.step,
        "seed": seed,
        "parameters": digest(trained.model.params),
    }


def coupled(trained: Trained) -> bool:
    """Whether a sample depends on its neighbours."""
    return getattr(trained.parts.sampler, "coupled", False)


def whole_batch(trained: Trained, size: int) -> int:
    """The size, rounded up to what the devices can share."""
    if size < 1:
        raise ConfigError(f"config.sampling.batch_size={size}: expected at least 1")
    return -(-size // trained.layout.count) * trained.layout.count


def draw(trained: Trained, shards: Shards, count: int, seed: int) -> bool:
    """Draws what is missing of samples 0 to count − 1, a file each batch; False where SIGTERM or Ctrl-C stopped it.

    FloatingPointError where a sample is not finite: the files before it stay.
    """
    size, done = trained.config.sampling.batch_size, shards.count()
    size = whole_batch(trained, size if coupled(trained) else min(size, max(1, count - done)))
    if done:
        print(f"{min(done, count)} of {count} samples are there already: {shards.folder}")
    elif any(shards.folder.parent.glob("*/")):
        print(
            f"{shards.folder.parent} holds samples of another step, seed, sampler or class: not mixed in, these are new"
        )
    key, model = jax.random.key(seed), jax.device_put(trained.model, trained.layout.copied)
    with StopRequest() as stop, Progress(count, min(done, count), "sample") as progress:
        while done < count and not stop.requested:
            start = time.perf_counter()
            indices = jax.device_put(jnp.arange(done, done + size), trained.layout.split)
            found = model.with_evaluations(key, indices, classes_of(trained.config, indices))
            x, evaluations = jax.device_get(found)
            require_finite(x, done)
            shards.write(done, in_units_of_the_data(trained, x), evaluations, time.perf_counter() - start)
            done += size
            progress.update(min(done, count), partial("{:.4g} evaluations each".format, np.mean(evaluations)))
    if done < count:
        print(f"stopped after {done} of {count} samples: the same command goes on from there")
    return done >= count


def require_finite(x: np.ndarray, first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if len(bad):
        raise FloatingPointError(
            f"{len(bad)} of samples {first} to {first + len(x) - 1} are not finite, number {first + bad[0]} the first: "
            f"the score is not finite there, or the sampler's max_steps were not enough; the samples before are kept"
        )


def in_units_of_the_data(trained: Trained, x: np.ndarray) -> np.ndarray:
    """uint8 images [N, H, W, C], or other data as they were."""
    transform = trained.parts.transform
    return transform.to_uint8(x) if is_image(trained.config, trained.parts) else transform.inverse(x)


# The way there


def require_animation(trained: Trained) -> None:
    """ConfigError where there is no common time to show, or no picture of the events."""
    if not hasattr(trained.parts.sampler, "path"):
        raise ConfigError(
            f"config.sampling.{trained.config.sampling.use}: {type(trained.parts.sampler).__name__} gives each sample "
            f"times of its own, so there are no frames to animate; choose a sampler with a grid by config.sampling.use"
        )
    if not is_image(trained.config, trained.parts) and np.prod(trained.config.shape) > 2:
        shape = tuple(trained.config.shape)
        raise ConfigError(f"config.shape is {shape}: there are animations of images and of 1 or 2 coordinates")


def animate(trained: Trained, x: np.ndarray, seed: int, frames: int = 60) -> None:
    """samples/animation.gif: the way of the first samples x from noise to data, which x itself ends.

    A state is shown as x_t/√(α² + σ²), so that noise of any level has the contrast of the data.
    """
    image = is_image(trained.config, trained.parts)
    x = np.asarray(x[: 64 if image else 2000])
    keep = np.unique(np.linspace(0, trained.parts.sampler.num_steps, frames).round().astype(int))

    @jax.jit
    def way(model: ScoreModel):
        numbers, sde = jnp.arange(len(x)), model.sde
        score_fn = model.score_given(classes_of(trained.config, numbers))
        times, states = model.sampler.path(sample_keys(jax.random.key(seed), numbers), sde, score_fn, model.shape, keep)
        if hasattr(sde, "alpha"):
            states /= expand(jnp.sqrt(per_time(sde.alpha(times) ** 2 + sde.sigma(times) ** 2, times)), states)
        return times, states

    times, states = jax.device_get(way(trained.model))
    if image:
        scale, to_uint8 = picture_scale(trained.config), trained.parts.transform.to_uint8
        drawn = [pictures.image_grid(images, scale=scale) for images in (*map(to_uint8, states[:-1]), x)]
    else:
        end = trained.parts.transform.forward(x)[None]
        drawn = pictures.point_frames(times, np.concatenate([states[:-1], end]).reshape(len(times), len(x), -1))
    file = trained.directory / "samples" / "animation.gif"
    pictures.save_gif(file, drawn)
    print(f"{len(drawn)} frames of the way of {len(x)} samples: {file}")
