"""Linear operators A of measurements y = A x, row by row: x [B, *event] → y [B, *measurement].

Any function of such a form is an operator; its adjoint comes from `jax.linear_transpose` (`observation.adjoint`), so
nobody writes one. Space is all axes of x but the first and the last, which has the channels.

    Mask            y = m x                                            inpainting
    ColorMix        y = Σ_c w_c x_c                                    gray
    BoxDownsample   y = mean over boxes of `size` positions per axis   super-resolution
    Decimate        y = every `step`-th position                       1-D signals, no low-pass filter
    Blur            y = kernel ∗ x, each channel, 0 beyond the edges   deblurring
    FourierMask     y = m F x, F orthonormal; real and imaginary part  magnetic resonance
    Radon           y = sums along parallel lines at given angles      computed tomography
    Project         y = P x, of the flattened event                    anything small
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_lib.node import Leaf, PyTreeNode, number, static


def _require(fits: bool, operator: Any, expected: str, x: Array) -> None:
    if not fits:
        raise ValueError(f"{type(operator).__name__}: expected {expected}, got x of shape {jnp.shape(x)}")


class Mask(PyTreeNode):
    """y = m x, with m of 0 and 1 (or weights) that broadcasts against one event: [H, W, 1] for all channels of images.

    Rows may have their own masks, [B, *event].
    """

    mask: Leaf = number()

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        mask = jnp.asarray(self.mask, x.dtype)
        fits = mask.ndim <= x.ndim and all(m in (1, n) for m, n in zip(mask.shape[::-1], x.shape[::-1], strict=False))
        _require(fits, self, f"events that a mask of shape {mask.shape} fits", x)
        return mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape) * x

    def take(self, rows: Leaf, event_axes: int) -> "Mask":
        """The masks of these rows, if there is one per row: it then has more axes than an event."""
        mask = jnp.asarray(self.mask)
        return self.replace(mask=mask[rows]) if mask.ndim > event_axes and len(mask) > 1 else self


class ColorMix(PyTreeNode):
    """y = Σ_c w_c x_c, [B, *space, 1]. The default is luma of Rec. 601 (ITU-R BT.601): 0.299, 0.587, 0.114."""

    weights: tuple[float, ...] = static((0.299, 0.587, 0.114))

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... 1"]:
        _require(x.ndim > 1 and x.shape[-1] == len(self.weights), self, f"{len(self.weights)} channels", x)
        return jnp.sum(x * jnp.asarray(self.weights, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)), -1, keepdims=True)


class BoxDownsample(PyTreeNode):
    """The mean over boxes of `size` positions along every axis of space: [B, *n, C] → [B, *(n/size), C]."""

    size: int = static(2, at_least=1)

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... C"]:
        space = x.shape[1:-1]
        _require(bool(space) and not any(n % self.size for n in space), self, f"sizes divisible by {self.size}", x)
        split = x.reshape(len(x), *(m for n in space for m in (n // self.size, self.size)), x.shape[-1])
        return split.mean(axis=tuple(range(2, 2 * len(space) + 1, 2)))


class Decimate(PyTreeNode):
    """Positions 0, step, 2 step, … of signals [B, n, C], without a low-pass filter."""

    step: int = static(2, at_least=1)

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... C"]:
        _require(x.ndim == 3, self, "signals [B, n, C]", x)
        return x[:, :: self.step]


class Blur(PyTreeNode):
    """Each channel convolved with a kernel [*k] of odd sizes, one axis for each of space; x is 0 beyond its edges."""

    kernel: Leaf = number()

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... C"]:
        kernel = jnp.asarray(self.kernel, x.dtype)
        fits = x.ndim == kernel.ndim + 2 and all(n % 2 for n in kernel.shape)
        _require(fits, self, f"{kernel.ndim} axes of space and odd sizes of the kernel {kernel.shape}", x)
        by_channel = jnp.moveaxis(x, -1, 1).reshape(-1, 1, *x.shape[1:-1])
        flipped = jnp.flip(kernel)[None, None]  # XLA's convolution correlates
        out = jax.lax.conv_general_dilated(
            by_channel, flipped, (1,) * kernel.ndim, "SAME", precision=jax.lax.Precision.HIGHEST
        )
        return jnp.moveaxis(out.reshape(len(x), x.shape[-1], *x.shape[1:-1]), 1, -1)


def gaussian_blur(std: float = 1.0, axes: int = 2) -> Blur:
    """The blur by a normal density of this standard deviation in pixels, cut off at 4 deviations, along `axes` axes."""
    at = np.arange(-math.ceil(4 * std), math.ceil(4 * std) + 1)
    line = np.exp(-0.5 * (at / std) ** 2)
    line /= line.sum()
    kernel = line
    for _ in range(axes - 1):
        kernel = kernel[..., None] * line
    return Blur(kernel=kernel)


class FourierMask(PyTreeNode):
    """m F x per channel: F is the orthonormal discrete Fourier transform over space, m [*space] of 0 and 1.

    y [B, *space, 2 C] has the real parts of all channels, then the imaginary ones. Frequency 0 is at index 0
    (`numpy.fft.fftfreq`), so a mask that is drawn with 0 in the middle goes through `numpy.fft.ifftshift` first.
    """

    mask: Leaf = number()

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... D"]:
        mask = jnp.asarray(self.mask, x.dtype)
        _require(x.shape[1:-1] == mask.shape, self, f"space of the mask's shape {mask.shape}", x)
        y = jnp.fft.fftn(x, axes=tuple(range(1, x.ndim - 1)), norm="ortho")
        return mask[None, ..., None] * jnp.concatenate([y.real, y.imag], axis=-1)


class Radon(PyTreeNode):
    """Sums along parallel lines: images [B, n, n, C] → [B, n, angles, C], detector positions by angles in degrees.

        y(r, θ) = Σ_u x(r e_θ + u e_θ⊥),   e_θ = (cos θ, sin θ) in (column, row),   r, u = −(n−1)/2 … (n−1)/2   (1)

    with x between pixels by bilinear interpolation, and 0 beyond the image. Lines are one pixel apart. 180 degrees
    have all lines; scikit-image's `radon` has the same geometry up to the direction of the angle.
    """

    angles: tuple[float, ...] = static(tuple(range(0, 180, 6)))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H A C"]:
        _require(x.ndim == 4 and x.shape[1] == x.shape[2], self, "square images [B, n, n, C]", x)
        places = jnp.arange(x.shape[1], dtype=x.dtype) - (x.shape[1] - 1) / 2
        images = jnp.moveaxis(x, (1, 2), (0, 1))  # [n, n, B, C]
        lines = [self._lines(images, places, math.radians(angle)) for angle in self.angles]
        return jnp.moveaxis(jnp.stack(lines, axis=1), 2, 0)

    @staticmethod
    def _lines(images: Array, places: Array, angle: float) -> Array:
        n, (c, s) = len(places), (math.cos(angle), math.sin(angle))
        r, u = places[:, None], places[None]
        column, row = (c * r - s * u + (n - 1) / 2, s * r + c * u + (n - 1) / 2)
        left, top = jnp.floor(column), jnp.floor(row)
        total = jnp.zeros((), images.dtype)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            at_row, at_column = top + i, left + j
            weight = (1 - jnp.abs(row - at_row)) * (1 - jnp.abs(column - at_column))
            inside = (at_row >= 0) & (at_row < n) & (at_column >= 0) & (at_column < n)
            at = images[jnp.clip(at_row, 0, n - 1).astype(int), jnp.clip(at_column, 0, n - 1).astype(int)]
            total = total + jnp.where(inside, weight, 0.0)[..., None, None] * at
        return total.sum(axis=1)  # over u: [n, B, C]


def parallel_beam(count: int = 30) -> Radon:
    """The Radon transform at `count` angles, evenly spaced over 180 degrees."""
    return Radon(angles=tuple(180 * k / count for k in range(count)))


class Project(PyTreeNode):
    """y = P x of the flattened event, with P [m, d]: y [B, m]."""

    matrix: Leaf = number()

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B m"]:
        matrix = jnp.asarray(self.matrix, x.dtype)
        _require(math.prod(x.shape[1:]) == matrix.shape[-1], self, f"events of {matrix.shape[-1]} numbers", x)
        return jnp.einsum("md,bd->bm", matrix, x.reshape(len(x), -1), precision="highest")
