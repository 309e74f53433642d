"""Augmentation that does not leak: images are transformed at random, and the network is conditioned on the transform.

An image is transformed by u ↦ G u of its plane, u = (column, row) from the center in pixels, with parameters a0 … a7:

    G = T(a6, a7) A(a4, a5) R(a3) S(a2) F(a0, a1)                                                            (1)

    F = diag(1 − 2 a0, 1 − 2 a1)            a0, a1 ∈ {0, 1}           flips, left to right and top to bottom
    S = s^a2 I                              a2 ~ N(0, 1)              scaling
    R = rotation by −a3                     a3 ~ U(−π, π)             rotation
    A = rot(a4) diag(r^a5, r^−a5) rot(−a4)  a4 ~ U(−π, π), a5 ~ N(0, 1)    stretching along a direction
    T = shift by d (W a6, H a7)             a6, a7 ~ N(0, 1)          translation

The flip a0 is considered with probability `flip`, and then made with ½. Each other transform is made with `probability`
(the flip a1 with half of it); else its parameters are 0. The network's condition has dimension 9,

    c = (a0, a1, a2, cos a3 − 1, sin a3, a5 cos a4, a5 sin a4, a6, a7),                                      (2)

and is zero where nothing is done. The network learns the score of transformed images under c ≠ 0, and that of the
original images under c = 0, which samples are drawn with. Karras et al. 2022, arXiv:2206.00364, appendix F.2 and table
6 (probability 0.12 to 0.15, s = r = 2^0.2, d = 1/8), after Karras et al. 2020, arXiv:2006.06676.

Here the new image is y(u) = x(G⁻¹ u) by cubic interpolation (Keys 1981, a = −½) with reflection at the edges. It is
exact for flips and for shifts by whole pixels. Theirs uses an intermediate image of twice the resolution.
"""

from itertools import product

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.node import PyTreeNode, Scalar, number

DIM = 9


class Augmentation(PyTreeNode):
    """(keys [B], x [B, H, W, C]) → (x transformed by (1), conditions (2) [B, 9]); row i depends on keys[i] and x[i]."""

    probability: Scalar = number(0.12, at_least=0, at_most=1)
    flip: Scalar = number(1.0, at_least=0, at_most=1)
    scale: Scalar = number(2**0.2, above=0)
    stretch: Scalar = number(2**0.2, above=0)
    shift: Scalar = number(0.125, at_least=0)

    def __call__(
        self, keys: Key[Array, " B"], x: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B 9"]]:
        a = jax.vmap(lambda key: self.draw(key, x.dtype))(keys)
        return jax.vmap(self.transform)(x, a), jax.vmap(condition)(a)

    def draw(self, key: Key[Array, ""], dtype=jnp.float32) -> Float[Array, " 8"]:
        """a0 … a7 of one image."""
        apply_key, flip_key, angle_key, normal_key = jax.random.split(key, 4)
        flips = jax.random.bernoulli(flip_key, shape=(2,)).astype(dtype)
        angles = jax.random.uniform(angle_key, (2,), dtype, -jnp.pi, jnp.pi)
        scale, stretch, *shift = jax.random.normal(normal_key, (4,), dtype)
        rates = jnp.asarray([self.flip, *5 * [self.probability]], dtype)
        on = (jax.random.uniform(apply_key, (6,), dtype) < rates).astype(dtype)
        return on[jnp.asarray([0, 1, 2, 3, 4, 4, 5, 5])] * jnp.stack([*flips, scale, *angles, stretch, *shift])

    def transform(self, x: Float[Array, "H W C"], a: Float[Array, " 8"]) -> Float[Array, "H W C"]:
        """y(u) = x(G⁻¹ u)."""
        height, width = x.shape[:2]
        places = [jnp.arange(n, dtype=x.dtype) - (n - 1) / 2 for n in (height, width)]
        rows, columns = jnp.meshgrid(*places, indexing="ij")
        inverse = self.inverse(a, height, width)
        u = jnp.einsum("ij,jhw->ihw", inverse[:2, :2], jnp.stack([columns, rows]), precision="highest")
        u = u + inverse[:2, 2, None, None]
        return interpolate(x, u[1] + (height - 1) / 2, u[0] + (width - 1) / 2)

    def matrix(self, a: Float[Array, " 8"], height: int, width: int) -> Float[Array, "3 3"]:
        """G (1), acting on (column, row, 1)."""
        flip = diagonal(1 - 2 * a[0], 1 - 2 * a[1])
        scale = diagonal(self.scale ** a[2], self.scale ** a[2])
        along = diagonal(self.stretch ** a[5], self.stretch ** -a[5])
        shift = jnp.eye(3, dtype=a.dtype).at[:2, 2].set(self.shift * jnp.stack([width * a[6], height * a[7]]))
        return _product(shift, rotation(a[4]), along, rotation(-a[4]), rotation(-a[3]), scale, flip)

    def inverse(self, a: Float[Array, " 8"], height: int, width: int) -> Float[Array, "3 3"]:
        """G⁻¹, a product of exact inverses."""
        flip = diagonal(1 - 2 * a[0], 1 - 2 * a[1])
        scale = diagonal(self.scale ** -a[2], self.scale ** -a[2])
        along = diagonal(self.stretch ** -a[5], self.stretch ** a[5])
        shift = jnp.eye(3, dtype=a.dtype).at[:2, 2].set(-self.shift * jnp.stack([width * a[6], height * a[7]]))
        return _product(flip, scale, rotation(a[3]), rotation(a[4]), along, rotation(-a[4]), shift)


def condition(a: Float[Array, " 8"]) -> Float[Array, " 9"]:
    """c (2)."""
    rotation_part = [jnp.cos(a[3]) - 1, jnp.sin(a[3])]
    return jnp.stack([*a[:3], *rotation_part, a[5] * jnp.cos(a[4]), a[5] * jnp.sin(a[4]), *a[6:]])


def rotation(angle: Float[Array, ""]) -> Float[Array, "3 3"]:
    """(column, row) ↦ rotated by the angle, from the first axis toward the second."""
    c, s, one, zero = jnp.cos(angle), jnp.sin(angle), jnp.ones_like(angle), jnp.zeros_like(angle)
    return jnp.stack([jnp.stack([c, -s, zero]), jnp.stack([s, c, zero]), jnp.stack([zero, zero, one])])


def diagonal(first: Float[Array, ""], second: Float[Array, ""]) -> Float[Array, "3 3"]:
    return jnp.diag(jnp.stack([first, second, jnp.ones_like(first)]))


def interpolate(
    x: Float[Array, "H W C"], rows: Float[Array, "H W"], columns: Float[Array, "H W"]
) -> Float[Array, "H W C"]:
    """x at these positions by Keys' cubic, a sum over 4 × 4 neighbors; outside, x is mirrored at its edges."""
    axes = []
    for place, n in ((rows, x.shape[0]), (columns, x.shape[1])):
        first = jnp.floor(place)
        axes.append([(cubic(place - first - k), mirrored(first.astype(int) + k, n)) for k in (-1, 0, 1, 2)])
    first, *others = ((wr * wc)[..., None] * x[row, column] for (wr, row), (wc, column) in product(*axes))
    return sum(others, start=first)


def cubic(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """Keys' kernel with a = −½: 1 at 0, 0 at the other integers, exact for parabolas."""
    t = jnp.abs(t)
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
    return jnp.where(t <= 1, near, jnp.where(t < 2, far, jnp.zeros_like(t)))


def mirrored(i: Array, n: int) -> Array:
    """The indices reflected at both ends: … 1 0 | 0 1 … n−1 | n−1 n−2 …"""
    i = i % (2 * n)
    return jnp.minimum(i, 2 * n - 1 - i)


def _product(*matrices: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    out, *rest = matrices
    for matrix in rest:
        out = jnp.matmul(out, matrix, precision="highest")
    return out
