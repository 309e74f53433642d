"""Monotone curves through tables: piecewise cubic, continuously differentiable, without overshoot.

Between the knots t_k and t_{k+1}, with u = (t − t_k)/h_k, the Hermite cubic of values y and slopes m is

    y(t) = y_k + u [h m_k + u (3 Δ − h (2 m_k + m_{k+1}) + u (h (m_k + m_{k+1}) − 2 Δ))],   Δ = y_{k+1} − y_k.   (1)

It is monotone with the slopes of Fritsch & Butland (1984, SIAM J. Sci. Stat. Comput. 5, 300). At an inner knot the
slope is a weighted harmonic mean of the secants on both sides, with the weights of Fritsch & Carlson's PCHIP.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.numbers import concrete


def check_order(place: str, name: str, table, sign: int = 1) -> None:
    """Raises ValueError unless a concrete table has at least two numbers that increase, or decrease for sign = −1."""
    values = concrete(table)
    if values is None:
        return
    values = np.atleast_1d(values)
    good = sign * np.diff(values, axis=0) > 0
    if values.ndim == 1 and len(values) > 1 and np.all(good) and np.all(np.isfinite(values)):
        return
    k = int(np.argmin(good)) if values.ndim == 1 and len(values) > 1 else 0
    shown = ", ".join(f"{v:.8g}" for v in values.reshape(-1)[k : k + 2])
    way = "increase" if sign > 0 else "decrease"
    raise ValueError(
        f"{place}: expected at least two finite numbers {name} that {way}; got {shown} from {name}[{k}] on"
    )


@jax.jit
def monotone_cubic(
    t: Float[Array, "..."], knots: Float[Array, " N"], first: Float[Array, ""], rises: Float[Array, " N-1"]
) -> Float[Array, "..."]:
    """y(t) (1) through y_0 = `first` and y_{k+1} = y_k + rises_k, of t's shape and dtype; the end cubics extrapolate.

    `rises` have one sign; there are at least two `knots`, increasing. The rises are passed instead of the values
    because the slopes are computed from them: differences of float32 values would be too coarse. Differentiable in t,
    first and rises.
    """
    knots, first, rises = knots.astype(t.dtype), first.astype(t.dtype), rises.astype(t.dtype)
    h = jnp.diff(knots)
    slopes = _slopes(h, rises / h)
    values = jnp.concatenate([jnp.zeros_like(rises[:1]), jnp.cumsum(rises)]) + first
    k = jnp.clip(jnp.searchsorted(knots, t, side="right") - 1, 0, h.shape[0] - 1)
    u, low, high, delta = (t - knots[k]) / h[k], h[k] * slopes[k], h[k] * slopes[k + 1], rises[k]
    return values[k] + u * (low + u * (3 * delta - 2 * low - high + u * (low + high - 2 * delta)))


def on_even_knots(t: Float[Array, "..."], first: Float[Array, ""], rises: Float[Array, " K"]) -> Float[Array, "..."]:
    """`monotone_cubic` with K + 1 knots k/K over [0, 1]; exact in float32 for any number of knots."""
    count = rises.shape[0]
    return monotone_cubic(t * count, jnp.arange(count + 1, dtype=t.dtype), first, rises)


def _slopes(h: Float[Array, " M"], secant: Float[Array, " M"]) -> Float[Array, " M+1"]:
    """dy/dt at the M + 1 knots, given the secants between them, which have one sign."""
    if h.shape[0] == 1:
        return jnp.concatenate([secant, secant])
    before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    inner = (before + after) / (before / secant[:-1] + after / secant[1:])
    return jnp.concatenate([_end(h[0], h[1], secant[0], secant[1]), inner, _end(h[-1], h[-2], secant[-1], secant[-2])])


def _end(h, next_h, secant, next_secant) -> Float[Array, " 1"]:
    """The slope at the end of the parabola through three knots, limited to 0.1 to 3 times the secant there.

    A larger one would overshoot; 0 would stop the process.
    """
    slope = secant + (secant - next_secant) * h / (h + next_h)
    return jnp.reshape(secant * jnp.clip(slope / secant, 0.1, 3.0), (1,))
