"""The training loop: steps, and what is due after which of them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_lib import Dataset, Waits, eval_batches
from io_lib import pictures
from io_lib.metrics import Progress
from io_lib.signals import StopRequest
from run_card import signed
from run_parts import (
    EVAL,
    SNAPSHOT,
    Layout,
    Parts,
    all_finite,
    is_image,
    picture_scale,
    score_model,
    stream,
    unlabelled,
)
from sde_lib import make_eval_step, make_train_step
from sde_lib.training import repeat


class Run:
    """A training run under way: the compiled steps, and what is due at which step."""

    def __init__(
        self,
        config,
        parts: Parts,
        layout: Layout,
        dataset: Dataset,
        directory: Path,
        log,
        checkpoints,
        card: dict | None = None,
    ):
        self.config, self.training, self.parts, self.layout = config, config.training, parts, layout
        self.dataset, self.directory, self.log, self.checkpoints = dataset, directory, log, checkpoints
        self.card = card or {}
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
            step, feed = start, Waits(feed, self.busy)
            while step < self.training.num_steps and not stop.requested:
                count = self.steps_to_take(step)
                state, metrics = self.call(state, [next(feed) for _ in range(count)])
                step += count
                self.window.append(metrics)
                progress.update(step, partial(note, metrics, feed))
                self.do_what_is_due(step, state)
            if step > (self.checkpoints.latest_step() or 0):
                self.save(step, state)
        return step

    def steps_to_take(self, step: int) -> int:
        """steps_per_call, or 1 where something is due before so many: then nothing need divide anything."""
        due = (self.training[name] for name in ("log_every", "eval_every", "sample_every", "checkpoint_every"))
        left = min([self.training.num_steps - step, *(every - step % every for every in due if every)])
        return self.steps_per_call if left >= self.steps_per_call else 1

    def busy(self) -> bool:
        """Whether the devices still work on the last step."""
        return bool(self.window) and not self.window[-1]["loss"].is_ready()

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
        self.checkpoints.save(step, state, signed(self.card, state))

    def snapshot(self, step: int, params) -> None:
        """A grid of samples under way, of the same noise at every step."""
        folder = self.directory / "samples"
        folder.mkdir(exist_ok=True)
        if is_image(self.config, self.parts):
            model = score_model(self.config, self.parts, params)
            x = model.sample_indices(stream(self.config, SNAPSHOT), jnp.arange(self.training.snapshot_size))
            grid = pictures.image_grid(self.parts.transform.to_uint8(np.asarray(x)), scale=picture_scale(self.config))
            pictures.save_png(folder / f"step_{step:07d}.png", grid)


def note(metrics: dict, feed: Waits) -> str:
    """data_wait: the share of the time since the last note that the devices waited for batches."""
    return f"loss {float(jnp.ravel(metrics['loss'])[-1]):.4f}  data_wait {feed.share():.1%}"
