"""The training loop: steps, and after them whatever is due: logs, evaluations, pictures and checkpoints."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, StallTimer
from io_lib.metrics import Progress
from io_lib.processes import any_process, is_main_process
from io_lib.signals import StopRequest
from run_modes.card import signed
from run_modes.conditions import abstract_conditions
from run_modes.eval_loss import EvalLoss
from run_modes.experiment import Experiment
from run_modes.labels import class_counts
from run_modes.page import write_page
from run_modes.sample_conditions import of_classes, of_examples
from run_modes.show import Shown
from run_modes.state import SNAPSHOT, abstract_state, all_finite, key_for
from sde_lib import make_train_step
from sde_lib.training import scan_steps
from sde_lib.training.xla import convolution_options

Steps = tuple[Any, Any]
"""Of training: the jitted step, and a jitted call of several."""


def train_steps(experiment: Experiment) -> Steps:
    """The jitted training step of a config, and a call of several steps; both are compiled when first used."""
    training, on_cpu = experiment.config.training, jax.default_backend() == "cpu"
    step = make_train_step(
        experiment.network,
        experiment.objective,
        experiment.tx,
        training.ema,
        experiment.augment,
        accumulate=training.get("accumulate", 1),
        unroll=on_cpu,
        skip=training.get("skip_nonfinite", False),
    )
    compiled = partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=experiment.devices.replicated,
        compiler_options=compiler_options(),
    )
    return compiled(step), compiled(scan_steps(step))


def compiler_options() -> dict[str, Any]:
    """Compiler options for a training step.

    On a CPU LLVM's first optimization level: steps are as fast as with its third, and compile in 0.8 of the time. And
    `sde_lib.training.xla.convolution_options`.
    """
    return {"xla_backend_optimization_level": 1, **convolution_options()} if jax.default_backend() == "cpu" else {}


def steps_per_call(config: ConfigDict) -> int:
    return config.training.steps_per_call or (1 if jax.default_backend() == "cpu" else 10)


def abstract_batch(experiment: Experiment) -> dict[str, Any]:
    """Shapes and shardings of a training batch. ConfigError if it cannot be split over the devices."""
    config, devices = experiment.config, experiment.devices
    shape = (config.training.batch_size, *config.shape)
    if shape[0] < 1 or shape[0] % devices.count:
        raise ConfigError(f"config.training.batch_size={shape[0]} cannot be split over {devices.count} devices")
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=devices.batch)
    return {"x": x, **abstract_conditions(experiment, shape[:1], devices.batch)}


def check_shapes(experiment: Experiment) -> Steps:
    """The training steps, after their shapes were evaluated; ConfigError if they do not fit.

    This finds wrong values that have the right type: a network of width −1, for example. JAX keeps what it traced, so
    the first step of training does not trace it again.
    """
    batch, steps = abstract_batch(experiment), train_steps(experiment)
    try:
        state = abstract_state(experiment)
        for path, leaf in jax.tree.leaves_with_path(state.params):
            if not leaf.size:  # a width of 0, which some versions of JAX accept
                raise ValueError(f"parameter {jax.tree_util.keystr(path)} is of shape {leaf.shape}")
        steps[0].eval_shape(state, batch)
    except Exception as error:  # of any class: networks, SDEs and JAX raise their own
        what = f"{type(error).__name__}: {error}".split("\n\n")[0]
        raise ConfigError(f"config: a training step cannot be built from it: {' '.join(what.split())[:300]}") from error
    return steps


class TrainingRun:
    """A training run: the compiled steps, and what is due at which step."""

    def __init__(
        self,
        experiment: Experiment,
        steps: Steps,
        dataset: Dataset,
        directory: Path,
        log,
        checkpoints,
        card: dict,
        shown: Shown,
    ):
        self.experiment, self.config, self.training = experiment, experiment.config, experiment.config.training
        self.directory, self.log, self.checkpoints, self.card, self.shown = directory, log, checkpoints, card, shown
        self.one_step, self.many_steps = steps
        self.newest_card = card
        self.eval_loss = EvalLoss(experiment, dataset)
        figures = experiment.objective.figures()
        self.eval_figures = {k: EvalLoss(experiment._replace(objective=one), dataset) for k, one in figures.items()}
        classes = of_classes(self.config, class_counts(self.config, dataset))
        self.drawn = (
            classes
            if experiment.conditions is None
            else of_examples(experiment, dataset.test if len(dataset.test) else dataset.train, "test")
        )
        self.steps_per_call = steps_per_call(self.config)
        self.window: list[dict] = []

    def loop(self, state, start: int, feed: Iterator, stop: StopRequest) -> int:
        """Takes steps from `start` to the end, or to a stop request, with whatever is due; returns the last step."""
        with Progress(self.training.num_steps, start, silent=not is_main_process()) as progress:
            step, feed = start, StallTimer(feed, self.busy)
            while step < self.training.num_steps and not self.asked_to_stop(stop, step):
                count = self.steps_to_take(step)
                batches = [next(feed) for _ in range(count)]
                if count == 1:
                    state, metrics = self.one_step(state, batches[0])
                else:
                    state, metrics = self.many_steps(state, jax.tree.map(lambda *rows: jnp.stack(rows), *batches))
                step += count
                self.window.append(metrics)
                if jax.process_count() == 1:
                    self.checkpoints.raise_if_unreadable()
                progress.update(step, partial(note, metrics, feed))
                self.do_what_is_due(step, state, progress)
            if step > (self.checkpoints.latest_step() or 0):
                self.save(step, state)
            self.shown.update(last=True)
            progress.doing("waiting until the last checkpoint is written and read back")
            self.checkpoints.wait()
        return step

    def steps_to_take(self, step: int) -> int:
        """steps_per_call, or 1 if something is due earlier: so the intervals need not be multiples of it."""
        due = (self.training[name] for name in ("log_every", "eval_every", "sample_every", "checkpoint_every"))
        left = min([self.training.num_steps - step, *(every - step % every for every in due if every)])
        return self.steps_per_call if left >= self.steps_per_call else 1

    def asked_to_stop(self, stop: StopRequest, step: int) -> bool:
        """Whether to stop at this step. Several processes must agree on it, and do so when a line is logged."""
        if jax.process_count() == 1:
            return stop.requested
        every = self.training.log_every
        due = step % every == 0 if every else step % 100 < self.steps_per_call
        return due and any_process(stop.requested)

    def busy(self) -> bool:
        """Whether the devices are still computing the last step."""
        return bool(self.window) and not self.window[-1]["loss"].is_ready()

    def do_what_is_due(self, step: int, state, progress: Progress) -> None:
        """Logs, evaluates, draws and saves. A checkpoint comes last, so a kill after it loses no line of the log."""
        last = step == self.training.num_steps
        due = lambda every: bool(every) and (step % every == 0 or last)  # noqa: E731
        save = due(self.training.checkpoint_every) or last
        if due(self.training.log_every) or save:
            self.log_window(step)
        if due(self.training.eval_every):
            if last:
                progress.doing("computing the test loss")
            figures = {f"eval_{name}": figure(state.ema_params, step) for name, figure in self.eval_figures.items()}
            self.log.write(step, eval_loss=self.eval_loss(state.ema_params, step), **figures)
        if due(self.training.sample_every):
            if last:
                progress.doing("drawing samples")
            self.snapshot(step, state.ema_params)
            write_page(self.directory, self.newest_card)
        if due(self.training.log_every):
            self.shown.update()
        if save:
            self.save(step, state)

    def log_window(self, step: int) -> None:
        """Logs the means over the steps since the last line, if there were any.

        FloatingPointError, with step, window and range of t, if any step is not finite. With
        config.training.skip_nonfinite, only if none is finite: the others are excluded, and counted as `skipped`.
        """
        if not self.window:
            return
        values = jax.device_get(self.window)
        self.window = []
        columns = {key: np.concatenate([np.ravel(metrics[key]) for metrics in values]) for key in values[0]}
        bad = {key: columns.pop(f"bad_{key}") for key in ("examples", "t_low", "t_high")}
        good = np.all([np.isfinite(column) for column in columns.values()], axis=0)
        skip = self.training.get("skip_nonfinite", False)
        if not (np.any(good) if skip else np.all(good)):
            self.refuse(step, columns, bad, int(np.argmin(good)))
        means = {key: np.mean(column[good], dtype=np.float64) for key, column in columns.items()}
        self.log.write(step, **means, **({"skipped": int(np.sum(~good))} if skip else {}))

    def refuse(self, step: int, columns: dict, bad: dict, at: int) -> None:
        """Raises FloatingPointError for entry `at` of a window that ends with `step`."""
        name = next(key for key in ("loss", *columns) if not np.isfinite(columns[key][at]))
        first, count = step - len(columns[name]) + 1, int(bad["examples"][at])
        where = f"{count} examples" if count else "a batch"
        raise FloatingPointError(
            f"{name} is not finite at step {first + at}, of {where} at t from {bad['t_low'][at]:.4g} to "
            f"{bad['t_high'][at]:.4g}, in the window of steps {first} to {step}; "
            f"the last good checkpoint is of step {self.checkpoints.latest_step() or 0}"
        )

    def save(self, step: int, state) -> None:
        """Writes a checkpoint, after checking that the losses since the last line and the parameters are finite."""
        self.log_window(step)
        if not all_finite((state.params, state.ema_params)):
            good = self.checkpoints.latest_step() or 0
            raise FloatingPointError(f"parameters are not finite at step {step}; the last good checkpoint is of {good}")
        self.newest_card = signed(self.card, state)
        self.checkpoints.save(step, state, self.newest_card)

    def snapshot(self, step: int, params) -> None:
        """Writes what shows samples, from the same noise at every step, in the first process alone."""
        if is_main_process() and self.experiment.objective.learns_score:
            folder = self.directory / "samples"
            folder.mkdir(exist_ok=True)
            if jax.process_count() > 1:
                params = jax.tree.map(lambda leaf: leaf.addressable_data(0), params)
            model = self.experiment.score_model(self.experiment.objective.network_params(params))
            numbers = jnp.arange(self.training.snapshot_size)
            x = model.sample_indices(key_for(self.config, SNAPSHOT), numbers, self.drawn.of(numbers))
            for file in self.experiment.form.preview(folder / f"step_{step:07d}", model.to_samples(np.asarray(x))):
                self.log.show(step, file)


def note(metrics: dict, feed: StallTimer) -> str:
    """Text of the progress bar; data_wait is the fraction of time since the last one that devices waited for data."""
    return f"loss {np.ravel(metrics['loss'])[-1]:.4f}  data_wait {feed.share():.1%}"
