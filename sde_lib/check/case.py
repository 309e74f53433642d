"""A process and its data for the comparisons: its methods as compiled programs, and their values in float64.

A method that raises, or returns the wrong shape, becomes a BrokenError with its name.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.noise import fold, sample_keys
from sde_lib.processes.paths import heun_step
from sde_lib.sde import SDE, has_kernel

PIECE = 512  # times per call of a program


class BrokenError(Exception):
    """A method raised, or returned something of the wrong shape."""

    def __init__(self, method: str, message: str):
        self.method = method
        super().__init__(message)


# Programs take the process as an argument, so that its parameters can change without a compilation. Each runs a few
# times only, so XLA's optimization does not pay.
_program = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _value(sde: SDE, name: str, *args):
    try:
        return jax.tree.map(jnp.asarray, getattr(sde, name)(*args))
    except Exception as error:
        raise BrokenError(name, f"under jit {name} raises {type(error).__name__}: {error}") from error


def _of_same_shape(sde: SDE, name: str, x, *args):
    """The value of a method that takes x and returns an array of its shape."""
    value = _value(sde, name, x, *args)
    if value.shape != x.shape:
        raise BrokenError(name, f"{name} has shape {value.shape} for x of shape {x.shape}")
    return value


def _as_coefficient(name: str, value, shape: tuple[int, ...]):
    """A coefficient as an array that broadcasts to `shape` [B, *event], and has B rows."""
    fits = len(value.shape) == len(shape) and all(m in (1, n) for m, n in zip(value.shape, shape, strict=True))
    if not fits and value.shape not in ((), shape[:1]):
        raise BrokenError(name, f"{name} has shape {value.shape} for times of shape {shape[:1]} and x of shape {shape}")
    value = value.reshape(value.shape + (1,) * (len(shape) - value.ndim))
    return jnp.broadcast_to(value, (shape[0], *value.shape[1:]))


def _names(sde: SDE) -> list[str]:
    return [name for name in ("alpha", "sigma", "drift_rate", "diffusion", "log_snr") if hasattr(sde, name)]


@partial(_program, static_argnums=2)
def coefficients_program(sde: SDE, t, event: tuple[int, ...]) -> dict:
    """Each coefficient at times [N]: [N, *event], with axes of 1 where coordinates are alike."""
    shape = (len(t), *event)
    values = {name: _as_coefficient(name, _value(sde, name, t), shape) for name in _names(sde)}
    if hasattr(sde, "alpha") and not hasattr(sde, "drift_rate"):
        values["drift_rate"] = _of_same_shape(sde, "drift", jnp.ones(shape, t.dtype), t)
    return values


@_program
def rows_program(sde: SDE, x, t) -> tuple[dict, dict]:
    """Coefficients and drift of a batch with times [B], and row by row with a scalar t."""

    def values(x, t):
        coefficients = {name: _as_coefficient(name, _value(sde, name, t), x.shape) for name in _names(sde)}
        return {**coefficients, "drift": _of_same_shape(sde, "drift", x, t)}

    batched = values(x, t)
    single = jax.lax.map(lambda row: jax.tree.map(lambda a: a[0], values(row[0][None], row[1])), (x, t))
    return batched, single


@_program
def alpha_ts_program(sde: SDE, t, s, x):
    return _as_coefficient("alpha_ts", _value(sde, "alpha_ts", t, s), x.shape)


@_program
def drifts_program(sde: SDE, x, t, score) -> dict:
    reverse = {name: _of_same_shape(sde, name, x, t, score) for name in ("reverse_drift", "flow_drift")}
    return {"drift": _of_same_shape(sde, "drift", x, t), **reverse}


@partial(_program, static_argnums=2)
def draws_program(sde: SDE, keys, event: tuple[int, ...]):
    x = _value(sde, "prior_sample", keys, event)
    if x.shape != (len(keys), *event):
        message = f"prior_sample has shape {x.shape} for {len(keys)} keys and the event shape {event}"
        raise BrokenError("prior_sample", message)
    return x


@_program
def density_program(sde: SDE, x) -> tuple:
    """Log density of the prior [B], and its gradient in x."""

    def total(x):
        logp = _value(sde, "prior_logp", x)
        if logp.shape != x.shape[:1]:
            raise BrokenError("prior_logp", f"prior_logp has shape {logp.shape} for x of shape {x.shape}")
        return jnp.sum(logp), logp

    gradient, logp = jax.grad(total, has_aux=True)(x)
    return logp, gradient


@jax.jit
def paths_program(sde: SDE, x, t, keys) -> tuple:
    """The ends of paths through the times t [N], and whether they were finite at each time but the first."""

    def step(x, inputs):
        k, t, h = inputs
        x = heun_step(fold(keys, k), sde, x, t, h)
        return x, jnp.all(jnp.isfinite(x))

    return jax.lax.scan(step, x, (jnp.arange(len(t) - 1), t[:-1], jnp.diff(t)))


class Case(NamedTuple):
    """The process and the data. Outside the programs everything is numpy, in float64."""

    sde: SDE
    shape: tuple[int, ...]
    data: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray
    seed: int

    @classmethod
    def of(cls, sde, shape, data, data_mean, data_std, seed) -> "Case":
        if data is not None:
            data = np.asarray(data, np.float64)
            shape, data_mean, data_std = data.shape[1:], data.mean(axis=0), data.std(axis=0)
        elif shape is None:
            shape = _event_shape(sde) or (4,)
        mean, std = (np.broadcast_to(np.asarray(m, np.float64), shape) for m in (data_mean, data_std))
        return cls(sde, tuple(shape), data, mean, std, seed)

    @property
    def gaussian(self) -> bool:
        return has_kernel(self.sde)

    @property
    def interval(self) -> tuple[float, float]:
        return float(self.sde.t_min), float(self.sde.t_max)

    def run(self, program, *args, x64: bool = True) -> Any:
        """The program's value for the process, with all arrays in one precision."""
        dtype = np.float64 if x64 else np.float32

        def cast(a):
            floating = isinstance(a, np.ndarray | np.generic | jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)
            return np.asarray(a).astype(dtype) if floating else a

        with jax.enable_x64(x64):
            try:
                value = program(*jax.tree.map(cast, (self.sde, *args)))
            except BrokenError:
                raise
            except Exception as error:
                message = f"{type(self.sde).__name__} with traced fields raises {type(error).__name__}: {error}"
                raise BrokenError("the fields", message) from error
            return jax.tree.map(lambda a: np.asarray(a, np.float64), value)

    def at(self, t: np.ndarray, x64: bool = True) -> dict[str, np.ndarray]:
        """The coefficients at times [N]: [N, *event], with axes of 1 where coordinates are alike.

        They are evaluated in pieces of one size, so that there is one compilation.
        """
        pieces = np.append(t, np.full(-len(t) % PIECE, t[-1])).reshape(-1, PIECE)
        values = [self.run(coefficients_program, piece, self.shape, x64=x64) for piece in pieces]
        return {name: np.concatenate([v[name] for v in values])[: len(t)] for name in values[0]}

    def keys(self, count: int) -> jax.Array:
        return sample_keys(jax.random.key(self.seed), jnp.arange(count))

    def normal(self, count: int) -> np.ndarray:
        return np.random.default_rng(self.seed).normal(size=(count, *self.shape))

    def times(self, count: int) -> np.ndarray:
        """3 count + 1 times in float32 from t_min to t_max: equidistant ones, and ever finer ones toward both ends.

        The equidistant ones avoid the round numbers at which tables have their knots.
        """
        low, high = self.interval
        early = np.geomspace(max(low, 1e-6 * high), high, count + 1)[1:]
        even = low + (high - low) * (np.arange(count) + 0.618) / count
        late = high - (high - low) * np.geomspace(1e-7, 0.97, count)
        t = np.sort(np.concatenate([[low], early, even, late]))
        return t.astype(np.float32).clip(np.float32(low), np.float32(high)).astype(np.float64)


def _event_shape(sde: SDE) -> tuple[int, ...]:
    """The axes of the coefficients other than that of time; () where coordinates are alike, or nothing is known."""
    middle = jnp.full(1, 0.5 * (sde.t_min + sde.t_max))
    try:
        shapes = [jax.eval_shape(lambda t, name=name: _value(sde, name, t), middle).shape for name in _names(sde)]
        return np.broadcast_shapes(*(shape[1:] for shape in shapes))
    except (BrokenError, ValueError):
        return ()


def brief(a: np.ndarray) -> str:
    return f"{a.min():.3g}" if np.all(a == a.flat[0]) else f"{a.min():.3g} to {a.max():.3g}"


def worst(error: np.ndarray) -> int:
    """The index on the first axis of the largest error; NaN counts as the largest."""
    return int(np.argmax(np.max(np.nan_to_num(error, nan=np.inf).reshape(len(error), -1), axis=1)))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest error of a row of a, relative to the largest entry in the same row of b."""
    a, b = (c.reshape(len(c), -1) for c in np.broadcast_arrays(a, b))
    return float(np.max(np.max(np.abs(a - b), axis=1) / np.maximum(np.max(np.abs(b), axis=1), 1e-30)))
