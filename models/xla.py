"""Workarounds for XLA in the networks: what each gains, where that was measured, and how to drop it.

| function | gain | measured on | to drop it |
|---|---|---|---|
| `gradient_written` | 3.2 to 3.4 s instead of 4.9 for a training step of the CIFAR-10 NCSN++, batch 8 | jax 0.10.2, CPU | return `x` |
| `even_and_odd` | 8 ms instead of 90 for norm, swish and filtered halving with gradients, 8 × 32² × 128 | jax 0.10.2, CPU | index with `jax.lax.index_in_dim` |
| `group_moments` | 10 ms instead of 28 for norm and swish with gradients, 8 × 32² × 128 | jax 0.10.2, CPU | the mean, then the mean of (x − mean)² |
| `random_halves` | 7 ms instead of 12 for the random numbers of a dropout, 8 × 32² × 128 | jax 0.10.2, CPU | use flax's `nn.Dropout`; masks change |
| `dropout_stream`, `threefry2x32` | 61 s of processor time instead of 67 to compile that training step | jax 0.10.2, CPU | as for `random_halves` |

benchmarks/RESULTS.md describes the measurements. Filters as sums of slices (`resampling`) and recomputed blocks
(`layers.rematerialized`) are not here: they are not about XLA alone.
"""  # noqa: E501

import math
import zlib

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.scope import LazyRng
from jaxtyping import Array, Float, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of Threefry-2x32


def gradient_written(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x; XLA for CPUs writes its gradient to memory once.

    By default XLA recomputes the sums of gradients along a chain of residual blocks wherever they are used. The
    gradient of the first block's bias then recomputes those of all later blocks. The workaround applies to one device
    only: on several simulated devices, all would have to wait for the first example."""
    return written_once(x) if jax.default_backend() == "cpu" and jax.device_count() == 1 else x


@jax.custom_jvp
def written_once(x: Array) -> Array:
    """`gradient_written` on any device."""
    return x


@written_once.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    # XLA for CPUs fuses a branch with nothing. It would remove an optimization barrier before it fuses.
    is_nan = jnp.isnan(jax.lax.stop_gradient(x).reshape(-1)[0])
    return x, jax.lax.cond(is_nan, lambda t: t + t, lambda t: t, tangent)


def even_and_odd(x: Float[Array, "..."], axis: int) -> tuple[Array, Array]:
    """x[0], x[2], … and x[1], x[3], … along an axis of even size.

    The gradient of this split is one concatenation. The gradient of two indexings is a sum, which XLA recomputes for
    each sum over channels or positions in the layers before."""
    pairs = x.reshape((*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]))
    even, odd = jax.lax.split(pairs, (1, 1), axis + 1)
    return jnp.squeeze(even, axis + 1), jnp.squeeze(odd, axis + 1)


def group_moments(
    x: Float[Array, "B N C"], groups: int
) -> tuple[Float[Array, "B N C"], Float[Array, "B 1 C"], Float[Array, "B 1 C"]]:
    """x − r, and the mean and variance of x − r over the positions and channels of a group.

    r is the group's mean at the first position. The normalized x does not depend on r, so no gradient goes through r.
    Since r is near the mean, the variance is accurate as E (x − r)² − (E (x − r))². So both moments take one pass over
    x forward, and one backward."""
    batch, _, channels = x.shape

    def group_mean(values: Array) -> Array:
        # Positions before channels: two small reductions instead of one over a transposed array.
        means = values.mean(axis=1).reshape(batch, groups, -1).mean(axis=2)
        return jnp.repeat(means, channels // groups, axis=1)[:, None]

    shifted = x - jax.lax.stop_gradient(group_mean(x[:, :1]))
    mean = group_mean(shifted)
    return shifted, mean, jnp.maximum(group_mean(shifted**2) - mean**2, 0.0)


def dropout_stream(module: nn.Module) -> tuple[Array, int]:
    """The dropout key of the whole network, and a number for this use of it, another for each call of each module.

    `make_rng` would fold the number into the key, and XLA would compile a loop for that in every layer. flax's
    InvalidRngError if there is no dropout key."""
    scope = module.scope
    if scope is None or not scope.has_rng("dropout"):
        return module.make_rng("dropout"), 0  # while parameters are made, their key; else it raises
    scope.rng_counters["dropout"] += 1
    uses = LazyRng.create(scope.rngs["dropout"], scope.rng_counters["dropout"])
    return uses.rng, zlib.crc32(repr(uses.suffix).encode())


def random_halves(key: Array, stream: int, shape: tuple[int, ...]) -> Array:
    """Independent uniform integers below 2^16, uint32 of this shape: the two halves of random words.

    Word n is the first of threefry2x32(key, (stream, n)). So two streams share no word, and a word is a function of its
    index n alone, on whatever device it is computed. Drawing the words is what dropout costs; one for two entries
    takes a third less time than one for each."""
    words = (*shape[:-1], -(-shape[-1] // 2))
    count = jax.lax.iota(jnp.uint32, math.prod(words)).reshape(words)
    word = threefry2x32(jax.random.key_data(key).reshape(-1)[:2], jnp.full_like(count, jnp.uint32(stream)), count)[0]
    return jnp.concatenate([word & 0xFFFF, word >> 16], axis=-1)[..., : shape[-1]]


def threefry2x32(key: UInt32[Array, "2"], x: UInt32[Array, "..."], y: UInt32[Array, "..."]) -> tuple[Array, Array]:
    """The 20 rounds of Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).

    jax.random computes the same rounds, but on a CPU by a loop over memory. Here they are additions, shifts and
    exclusive ors, which XLA fuses with the operations that use them."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    x, y = x + keys[0], y + keys[1]
    for four in range(5):
        for distance in ROTATIONS[four % 2]:
            x = x + y
            y = x ^ (y << jnp.uint32(distance) | y >> jnp.uint32(32 - distance))
        x, y = x + keys[(four + 1) % 3], y + keys[(four + 2) % 3] + jnp.uint32(four + 1)
    return x, y
