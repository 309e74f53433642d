"""Filtered resampling as sums of slices, as in the networks, compared with a convolution of each channel.

    python -m benchmarks.resampling [--batch 8] [--repeats 5]

For the sizes of the published networks and taps (1, 3, 3, 1): milliseconds per call of the forward pass, and of the
gradient by the input alone. Calls are queued and awaited together; each time is the minimum over the repeats. Both
compute eqs. (1) and (2) of `models/resampling.py` in full precision (no TF32). The last column is the largest
difference between the two, relative to the largest value.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.resampling import fir_downsample, fir_upsample

TAPS = (1, 3, 3, 1)
SIZES = ((32, 128), (16, 256), (8, 256), (64, 128))  # positions an axis, channels


def by_convolution(x, up: bool):
    """Eq. (1) or (2) of `models/resampling.py`, for an even number of taps, as a convolution of each channel."""
    taps = np.asarray(TAPS[::-1], np.float64) / sum(TAPS) * (2 if up else 1)
    channels, low = x.shape[-1], (len(TAPS) - 1) // 2
    pads = (low + 1, len(TAPS) - low - 1) if up else (low, len(TAPS) - low - 2)
    return lax.conv_general_dilated(
        x,
        jnp.tile(jnp.asarray(np.outer(taps, taps), x.dtype)[:, :, None, None], (1, 1, 1, channels)),
        window_strides=(1, 1) if up else (2, 2),
        padding=(pads, pads),
        lhs_dilation=(2, 2) if up else (1, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        precision=lax.Precision.HIGHEST,
    )


WAYS = {
    ("down", "slices"): partial(fir_downsample, taps=TAPS),
    ("down", "convolution"): partial(by_convolution, up=False),
    ("up", "slices"): partial(fir_upsample, taps=TAPS),
    ("up", "convolution"): partial(by_convolution, up=True),
}


def milliseconds(function, x, repeats: int, calls: int) -> float:
    """Milliseconds per call when `calls` are queued: the minimum over the repeats. The first call is not counted."""
    jax.block_until_ready(function(x))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([function(x) for _ in range(calls)])
        times.append((time.perf_counter() - start) / calls * 1e3)
    return min(times)


def transposed(function, x):
    """(jitted function, its argument w): the gradient of Σ w f(x), that is f's transpose applied to w."""
    shape = jax.eval_shape(function, x)
    w = jax.random.normal(jax.random.key(1), shape.shape, shape.dtype)
    return jax.jit(lambda w: jax.linear_transpose(function, x)(w)[0]), w


def main(batch: int = 8, repeats: int = 5, calls: int = 10, sizes=SIZES, dtypes=("float32", "bfloat16")) -> list:
    """Rows of (direction, method, size, channels, dtype, ms forward, ms gradient, difference)."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {batch}")
    print("| | positions | channels | dtype | as | forward, ms | gradient, ms | difference |")
    print("|---|--:|--:|---|---|--:|--:|--:|")
    rows = []
    for dtype in dtypes:
        for size, channels in sizes:
            x = jax.random.normal(jax.random.key(0), (batch, size, size, channels), dtype)
            for (direction, way), function in WAYS.items():
                forward = jax.jit(function)
                other = jax.jit(WAYS[direction, "slices"])(x).astype(jnp.float32)
                error = float(jnp.max(jnp.abs(forward(x).astype(jnp.float32) - other)) / jnp.max(jnp.abs(other)))
                programs = ((forward, x), transposed(function, x))
                times = [milliseconds(*program, repeats, calls) for program in programs]
                rows.append((direction, way, size, channels, dtype, *times, error))
                print(
                    f"| {direction} | {size}² | {channels} | {dtype} | {way} | {times[0]:.3f} | {times[1]:.3f} "
                    f"| {error:.0e} |",
                    flush=True,
                )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10)
    args = parser.parse_args()
    main(args.batch, args.repeats, args.calls)
