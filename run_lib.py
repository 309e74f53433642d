"""Training, sampling and evaluation, told in order: build the objects from the config, loop, keep what matters.

A work directory holds one run:

    config.json   checkpoints/   metrics.jsonl   tensorboard/   samples/   eval/

It is all that sampling from it needs. `train` resumes by itself from the newest checkpoint, exactly: a batch and its
noise are functions of (seed, step).
"""

import contextlib
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from tqdm import tqdm

from configs.spec import ConfigError, build, diff, to_json
from data_lib import Batches, Dataset, eval_batches, gather, prefetch
from io_lib import pictures, workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog, Progress, read_metrics
from io_lib.signals import StopRequest
from models.network import as_network
from sde_lib import Sampler, ScoreModel, check_sde, init_state, make_eval_step, make_train_step
from sde_lib import suggest as suggest_parameters
from sde_lib.check import Report
from sde_lib.suggest import Suggestion
from sde_lib.training import repeat

# Streams of the one seed: a number for each use, folded into jax.random.key(seed).
INIT, TRAIN, EVAL, SNAPSHOT = range(4)

# What may differ from the work directory's config when a trained model is used.
CHANGEABLE = ("config.sampling.", "config.eval.", "config.data.")


class Parts(NamedTuple):
    """What a config describes, built."""

    sde: Any
    parameterization: Any
    network: Any
    loss: Any
    tx: Any
    transform: Any
    sampler: Sampler


def build_parts(config: ConfigDict) -> Parts:
    """The objects of a config. ConfigError naming the place where it is wrong; nothing is compiled."""
    choice = config.sampling.use
    if choice not in config.sampling or choice in ("use", "batch_size"):
        choices = sorted(key for key in config.sampling if key not in ("use", "batch_size"))
        raise ConfigError(f"config.sampling.use is {choice!r}: expected one of {', '.join(choices)}")
    parts = Parts(
        sde=build(config.sde, "config.sde"),
        parameterization=build(config.parameterization, "config.parameterization"),
        network=as_network(build(config.network, "config.network")),
        loss=build(config.loss, "config.loss"),
        tx=build(config.optimizer, "config.optimizer"),
        transform=build(config.transform, "config.transform"),
        sampler=build(config.sampling[choice], f"config.sampling.{choice}"),
    )
    try:
        parts.sampler.check(parts.sde)
    except TypeError as error:
        raise ConfigError(f"config.sampling.{choice}: {error}") from error
    missing = [name for name in requires(parts.loss) if not hasattr(parts.sde, name)]
    if missing:
        raise ConfigError(
            f"config.loss needs {' and '.join(missing)} of the SDE, which {type(parts.sde).__name__} lacks: without a "
            f"kernel take transition_loss or sliced_loss, with PredictPathScore for config.parameterization"
        )
    return parts


def requires(loss) -> tuple[str, ...]:
    """What a loss, whose options a config may have bound, says that an SDE must have."""
    return getattr(getattr(loss, "func", loss), "requires", ())


class Layout(NamedTuple):
    """Where arrays live: one axis of devices over which a batch is split, and parameters copied."""

    count: int
    split: NamedSharding
    copied: NamedSharding

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch, split over the devices."""
        return jax.device_put(batch, self.split)


def make_layout(devices: list | None = None) -> Layout:
    """All devices of this process on one axis named "data", or those given."""
    if jax.process_count() > 1:
        raise ConfigError(f"this is one of {jax.process_count()} processes: a run takes the devices of one process")
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return Layout(len(devices), NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()))


def stream(config: ConfigDict, use: int) -> jax.Array:
    """The key of one use of the config's seed."""
    return jax.random.fold_in(jax.random.key(config.seed), use)


def new_state(config: ConfigDict, parts: Parts):
    """The training state at step 0, a function of the config."""
    x = jnp.zeros((1, *config.shape), jnp.float32)
    params = parts.network.init(stream(config, INIT), x, jnp.zeros(1, jnp.float32))
    return init_state(stream(config, TRAIN), params, parts.tx)


def abstract_state(config: ConfigDict, parts: Parts, layout: Layout):
    """Shapes, dtypes and placement of the training state, without computing it."""
    shapes = jax.eval_shape(partial(new_state, config, parts))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.copied), shapes)


# Before training


def check(config: ConfigDict) -> Report:
    """Prints whether the config's SDE agrees with itself, for events of the config's shape and data of unit variance.

    SDECheckError, naming the method to look at, where it does not.
    """
    return check_sde(build(config.sde, "config.sde"), shape=tuple(config.shape))


def suggest(config: ConfigDict, dataset: Dataset | None = None, count: int = 10_000) -> Suggestion:
    """What the first `count` training examples, in model space, suggest for the parameters of a process."""
    dataset = load_data(config, make_layout()) if dataset is None else dataset
    x = gather(dataset.train, np.arange(min(count, len(dataset.train))))["x"]
    sde = build(config.sde, "config.sde")
    return suggest_parameters(
        build(config.transform, "config.transform").forward(x), sde=sde if hasattr(sde, "alpha") else None
    )


# Training


def train(
    config: ConfigDict, directory: str | Path, dataset: Dataset | None = None, devices: list | None = None
) -> bool:
    """Trains to config.training.num_steps, resuming from the newest checkpoint; True when it got there.

    `dataset` takes the place of config.data, for arrays that are already in memory. SIGTERM or Ctrl-C writes a
    checkpoint and returns False. FloatingPointError at a loss that is not finite: the last good checkpoint stays.
    ConfigError, before anything is compiled, for all that is wrong with config, data, devices or directory.
    """
    parts, layout, training = build_parts(config), make_layout(devices), config.training
    dataset = load_data(config, layout) if dataset is None else check_data(config, dataset, layout)
    try:
        batches = Batches(dataset.train, parts.transform, training.batch_size, config.seed, training.flip)
        checkpoints = Checkpoints(Path(directory) / "checkpoints", training.keep_newest, training.keep_every or None)
    except ValueError as error:
        raise ConfigError(f"config.training: {error}") from error
    directory = workdir.claim(directory, to_json(config))
    with StopRequest() as stop, checkpoints, MetricsLog(directory) as log:
        start = checkpoints.latest_step() or 0
        log.rewind(start)
        if start >= training.num_steps:
            print(f"{directory} is trained: {start} steps")
            return True
        state = restored(config, parts, layout, checkpoints) if start else placed(config, parts, layout)
        run = Run(config, parts, layout, dataset, directory, log, checkpoints)
        feed = prefetch(batches, start, training.num_steps, lambda batch: layout.put(unlabelled(batch)))
        with contextlib.closing(feed):
            step = run.loop(state, start, feed, stop)
    if step < training.num_steps:
        print(f"stopped at step {step}: the same command resumes {directory} there")
    return step == training.num_steps


def placed(config: ConfigDict, parts: Parts, layout: Layout):
    """A new state on all devices."""
    return jax.jit(partial(new_state, config, parts), out_shardings=layout.copied)()


def restored(config: ConfigDict, parts: Parts, layout: Layout, checkpoints: Checkpoints):
    """The newest checkpoint, on all devices."""
    try:
        return checkpoints.restore(abstract_state(config, parts, layout))
    except FileNotFoundError as error:
        raise ConfigError(f"{error}: train first") from error


def load_data(config: ConfigDict, layout: Layout) -> Dataset:
    """The data of config.data, checked. ConfigError where they are not there."""
    try:
        dataset = build(config.data, "config.data")
    except FileNotFoundError as error:
        raise ConfigError(f"config.data: {error}") from error
    return check_data(config, dataset, layout)


def check_data(config: ConfigDict, dataset: Dataset, layout: Layout) -> Dataset:
    """The data again, or ConfigError where data, config and devices do not go together."""
    shape = tuple(gather(dataset.train, [0])["x"].shape[1:])
    if shape != tuple(config.shape):
        raise ConfigError(f"config.shape is {tuple(config.shape)}, but the data are {shape}")
    for place, size in (("training", config.training.batch_size), ("eval", config.eval.batch_size)):
        if size < 1 or size % layout.count:
            raise ConfigError(f"config.{place}.batch_size={size} cannot be split over {layout.count} devices")
    return dataset


def unlabelled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch as an unconditional network takes it."""
    return {key: value for key, value in batch.items() if key != "label"}


class Run:
    """A training run under way: the compiled steps, and what is due at which step."""

    def __init__(self, config, parts: Parts, layout: Layout, dataset: Dataset, directory: Path, log, checkpoints):
        self.config, self.training, self.parts, self.layout = config, config.training, parts, layout
        self.dataset, self.directory, self.log, self.checkpoints = dataset, directory, log, checkpoints
        step = make_train_step(
            parts.network, parts.sde, parts.parameterization, parts.loss, parts.tx, config.training.ema
        )
        compiled = partial(jax.jit, donate_argnums=0, out_shardings=layout.copied)
        self.one_step, self.many_steps = compiled(step), compiled(repeat(step))
        self.eval_step = jax.jit(make_eval_step(parts.network, parts.sde, parts.parameterization, parts.loss))
        on_cpu = jax.default_backend() == "cpu"
        self.steps_per_call = config.training.steps_per_call or (1 if on_cpu else 10)
        self.window: list[dict] = []

    def loop(self, state, start: int, feed: Iterator, stop: StopRequest) -> int:
        """Steps from `start` to the end, or to a request to stop; after each call, whatever is due. The last step."""
        with Progress(self.training.num_steps, start) as progress:
            step = start
            while step < self.training.num_steps and not stop.requested:
                count = self.steps_to_take(step)
                state, metrics = self.call(state, [next(feed) for _ in range(count)])
                step += count
                self.window.append(metrics)
                progress.update(step, jnp.ravel(metrics["loss"])[-1])
                self.do_what_is_due(step, state)
            if step > (self.checkpoints.latest_step() or 0):
                self.save(step, state)
        return step

    def steps_to_take(self, step: int) -> int:
        """steps_per_call, or 1 where something is due before so many: then nothing need divide anything."""
        due = (self.training[name] for name in ("log_every", "eval_every", "sample_every", "checkpoint_every"))
        left = min([self.training.num_steps - step, *(every - step % every for every in due if every)])
        return self.steps_per_call if left >= self.steps_per_call else 1

    def call(self, state, batches: list):
        if len(batches) == 1:
            return self.one_step(state, batches[0])
        return self.many_steps(state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))

    def do_what_is_due(self, step: int, state) -> None:
        """A checkpoint comes last: what is logged by then is never missing after a kill."""
        last = step == self.training.num_steps
        due = lambda every: bool(every) and (step % every == 0 or last)  # noqa: E731
        save = due(self.training.checkpoint_every) or last
        if due(self.training.log_every) or save:
            self.log_window(step)
        if due(self.training.eval_every):
            self.log.write(step, eval_loss=self.eval_loss(state.ema_params))
        if due(self.training.sample_every):
            self.snapshot(step, state.ema_params)
        if save:
            self.save(step, state)

    def log_window(self, step: int) -> None:
        """A line with the means over the steps since the last one, if there were any.

        FloatingPointError where one of them is not finite, with the step.
        """
        if not self.window:
            return
        values = jax.device_get(self.window)
        self.window = []
        columns = {key: np.concatenate([np.ravel(metrics[key]) for metrics in values]) for key in values[0]}
        for key, column in columns.items():
            if not np.all(np.isfinite(column)):
                first, good = step - len(column) + 1, self.checkpoints.latest_step() or 0
                raise FloatingPointError(
                    f"{key} is not finite at step {first + int(np.argmin(np.isfinite(column)))}, in the window of "
                    f"steps {first} to {step}; the last good checkpoint is of step {good}"
                )
        self.log.write(step, **{key: np.mean(column, dtype=np.float64) for key, column in columns.items()})

    def eval_loss(self, params) -> float:
        """The loss of the EMA parameters over the held-out examples, with the same noise at every call."""
        parts, total, count = self.parts, 0.0, 0.0
        batches = eval_batches(self.dataset.heldout, parts.transform, self.config.eval.batch_size)
        for i, batch in enumerate(batches):
            key = jax.random.fold_in(stream(self.config, EVAL), i)
            value, n = self.eval_step(params, key, self.layout.put(unlabelled(batch)))
            total, count = total + float(value) * float(n), count + float(n)
        return total / count

    def save(self, step: int, state) -> None:
        """A checkpoint, once the losses that led to it, and the parameters themselves, are known to be finite."""
        self.log_window(step)
        if not all_finite((state.params, state.ema_params)):
            good = self.checkpoints.latest_step() or 0
            raise FloatingPointError(f"parameters are not finite at step {step}; the last good checkpoint is of {good}")
        self.checkpoints.save(step, state)

    def snapshot(self, step: int, params) -> None:
        """A grid of samples under way, of the same noise at every step."""
        folder = self.directory / "samples"
        folder.mkdir(exist_ok=True)
        if is_image(self.config, self.parts):
            model = score_model(self.config, self.parts, params)
            x = model.sample_indices(stream(self.config, SNAPSHOT), jnp.arange(self.training.snapshot_size))
            grid = pictures.image_grid(self.parts.transform.to_uint8(np.asarray(x)), scale=picture_scale(self.config))
            pictures.save_png(folder / f"step_{step:07d}.png", grid)


@jax.jit
def all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def is_image(config: ConfigDict, parts: Parts) -> bool:
    """Events [H, W, C] whose transform knows how to make a picture of them."""
    return len(config.shape) == 3 and hasattr(parts.transform, "to_uint8")


def picture_scale(config: ConfigDict) -> int:
    """Small images are enlarged to about 32 pixels, so that they can be seen."""
    return max(1, 32 // config.shape[0])


# Sampling


class Trained(NamedTuple):
    """A work directory, opened: its model with the EMA parameters of the newest checkpoint, and that step."""

    directory: Path
    config: ConfigDict
    parts: Parts
    model: ScoreModel
    step: int


def score_model(config: ConfigDict, parts: Parts, params) -> ScoreModel:
    return ScoreModel(
        sde=parts.sde,
        parameterization=parts.parameterization,
        network=parts.network,
        params=params,
        sampler=parts.sampler,
        shape=tuple(config.shape),
        transform=parts.transform,
    )


def load(directory: str | Path, config: ConfigDict | None = None) -> ScoreModel:
    """The model of a work directory, with the EMA parameters of its newest checkpoint.

    `config`, where given, stands in for the directory's own; it may differ in sampling, eval and data alone.
    ConfigError if it differs otherwise, if there is no checkpoint, or if it is no work directory.
    """
    return open_trained(directory, config).model


def open_trained(directory: str | Path, config: ConfigDict | None = None) -> Trained:
    try:
        directory, saved = Path(directory), workdir.load_config(directory)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    config = saved if config is None else config
    changed = [line for line in diff(saved, config) if not line.startswith(CHANGEABLE)]
    if changed:
        raise ConfigError(f"{directory} was trained with another config: {'; '.join(changed[:3])}")
    parts, layout = build_parts(config), make_layout()
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = restored(config, parts, layout, checkpoints)
    return Trained(directory, config, parts, score_model(config, parts, state.ema_params), int(state.step))


def draw(model: ScoreModel, seed: int, count: int, batch_size: int) -> np.ndarray:
    """Samples 0 to count − 1 of the seed [count, *shape] in model space, batch by batch, with a bar.

    Neither the batch size nor the devices change them (except under Langevin's batch norm, whose steps are shared).
    """
    layout, key = make_layout(), jax.random.key(seed)
    batch_size = -(-batch_size // layout.count) * layout.count
    model = jax.device_put(model, layout.copied)
    out = []
    with tqdm(total=count, unit=" samples", desc=f"{model.sampler.nfe} evaluations each") as bar:
        for first in range(0, count, batch_size):
            indices = jax.device_put(jnp.arange(first, first + batch_size), layout.split)
            out.append(np.asarray(model.sample_indices(key, indices))[: count - first])
            bar.update(len(out[-1]))
    return np.concatenate(out)


def sample(
    directory: str | Path, num_samples: int = 1000, seed: int = 0, config: ConfigDict | None = None
) -> np.ndarray:
    """Draws samples into samples/samples.npz (key `samples`) and, for images, a grid into samples/samples.png.

    Images are uint8 [N, H, W, C], other data float32 [N, *shape] in the units of the data. The file also says with
    which step, seed and sampling section it was made; samples made with the same are kept.
    """
    return sample_trained(open_trained(directory, config), num_samples, seed)


def sample_trained(trained: Trained, num_samples: int, seed: int) -> np.ndarray:
    config, transform = trained.config, trained.parts.transform
    file = trained.directory / "samples" / "samples.npz"
    made_with = json.dumps(
        {"step": trained.step, "seed": seed, "count": num_samples, "sampling": to_json(config.sampling)}
    )
    if file.is_file():
        with np.load(file, allow_pickle=False) as found:
            if "made_with" in found and str(found["made_with"]) == made_with:
                print(f"{file} is there already")
                return found["samples"]
    x = draw(trained.model, seed, num_samples, config.sampling.batch_size)
    image = is_image(config, trained.parts)
    x = transform.to_uint8(x) if image else transform.inverse(x)
    file.parent.mkdir(exist_ok=True)
    if image:
        pictures.save_png(file.with_suffix(".png"), pictures.image_grid(x[:256], scale=picture_scale(config)))
    with io.BytesIO() as buffer:
        np.savez(buffer, samples=x, made_with=made_with)
        workdir.write_atomic(file, buffer.getvalue())
    print(f"{len(x)} samples of step {trained.step} (EMA), seed {seed}: {file}")
    return x


# Evaluation


def evaluate(
    directory: str | Path,
    num_samples: int = 1000,
    seed: int = 0,
    config: ConfigDict | None = None,
    dataset: Dataset | None = None,
) -> dict:
    """The loss on held-out data, and what config.eval.report says of samples beside real data.

    Writes eval/report.json, eval/report.md and the pictures eval/samples.png and eval/loss.png; returns the report.
    """
    trained, layout = open_trained(directory, config), make_layout()
    config, parts = trained.config, trained.parts
    dataset = load_data(config, layout) if dataset is None else check_data(config, dataset, layout)
    run = Run(config, parts, layout, dataset, trained.directory, None, None)
    report = {"step": trained.step, "seed": seed, "nfe": parts.sampler.nfe}
    report["eval_loss"] = run.eval_loss(trained.model.params)
    text = f"Step {trained.step} (EMA), held-out loss {report['eval_loss']:.4f}, {report['nfe']} evaluations a sample\n"
    folder = trained.directory / "eval"
    folder.mkdir(exist_ok=True)
    if "report" in config.eval:
        x = sample_trained(trained, num_samples, seed)
        found = compare(config, parts, x, dataset, folder)
        text += "\n" + found.pop("text", "")
        report |= found
    workdir.write_atomic(folder / "report.json", json.dumps(report, indent=1))
    workdir.write_atomic(folder / "report.md", text)
    pictures.plot_loss(folder / "loss.png", read_metrics(trained.directory))
    print(text)
    return report


def compare(config: ConfigDict, parts: Parts, x: np.ndarray, dataset: Dataset, folder: Path) -> dict:
    """config.eval.report of samples and real data, in model space; for images, also a picture of both."""
    train, heldout = (gather(source, np.arange(len(source))) for source in dataset)
    forward, image = parts.transform.forward, is_image(config, parts)
    if image:
        real = parts.transform.to_uint8(forward(train["x"][:100]))
        grids = [pictures.image_grid(images) for images in (x[:100], real)]
        pictures.save_grids_side_by_side(folder / "samples.png", *grids, titles=("samples", "real"))
    samples = parts.transform.from_uint8(x) if image else forward(x)
    report = build(config.eval.report, "config.eval.report")
    return report(samples, forward(train["x"]), forward(heldout["x"]), train.get("label"), heldout.get("label"))
