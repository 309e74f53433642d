"""One line for Python's or NumPy's functions where JAX's values pass: `math.cos(t)` in an α, `if t < 0.5:` in a drift.

Under `jit` and in derivatives t is a tracer, which these functions cannot take. JAX's own message names the tracer. The
one here names the class, the method, the line and the function of jax.numpy to write.
"""

import functools
import linecache
import re
from collections.abc import Callable, Iterable
from inspect import isfunction

import jax
import jax.numpy as jnp

_CALL = re.compile(r"\b(math|np|numpy)\.(\w+)\s*\(")
_TRACED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
_AS_SCALAR = ("converted to Python scalars", "converted to a scalar")


class TracedError(TypeError):
    """A method gave one of JAX's values to a function of Python or NumPy."""


def explain_tracers(cls: type, methods: Iterable[str]) -> None:
    """Wraps those methods that the class itself defines: an error over a tracer becomes a TracedError of one line."""
    for name in methods:
        method = vars(cls).get(name)
        if isfunction(method):
            setattr(cls, name, _explained(method))


def _explained(method: Callable) -> Callable:
    @functools.wraps(method)
    def explained(*args, **kwargs):
        try:
            return method(*args, **kwargs)
        except TracedError:
            raise
        except Exception as error:
            scalar = isinstance(error, TypeError) and any(text in str(error) for text in _AS_SCALAR)
            if not (isinstance(error, _TRACED) or scalar):
                raise
            raise TracedError(f"{method.__qualname__}{_remedy(error)}") from error

    return explained


def _remedy(error: Exception) -> str:
    """The place of the error in the user's code, and what to write there."""
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    own = [f for f in frames if f[0].f_globals.get("__name__", "").split(".")[0] not in ("jax", "jaxlib", "numpy")]
    frame, number = own[-1]
    file, line = frame.f_code.co_filename, linecache.getline(frame.f_code.co_filename, number)
    calls = [(module, name) for module, name in _CALL.findall(line) if hasattr(jnp, name)]
    if calls:
        module, name = calls[0]
        advice = f"{module}.{name} cannot take JAX's values: write jnp.{name}"
    elif re.match(r"\s*(if|while|elif)\b", line):
        advice = "`if` and `while` cannot decide by JAX's values: write jnp.where(condition, a, b)"
    else:
        advice = "Python and NumPy cannot take JAX's values: write jnp.cos for math.cos or np.cos, jnp.where for if"
    return f" (line {number} of {file}): {advice}" if line else f": {advice}"
