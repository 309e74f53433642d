"""Recordings as compressed complex spectrograms: the real and the imaginary part as the two channels of an image.

    c = STFT(x) (`io_lib.spectra`, eq. 1),   z = β |c|^e e^{i arg c},   x = ISTFT((|z|/β)^{1/e} e^{i arg z})         (1)

Compression by e < 1 brings the many small values nearer to the few large ones. e = 0.5 and β = 0.15 are those for
speech at 16 kHz of Richter et al. 2023, arXiv:2208.05830, section IV-B; their windows of 510 values do not add to a
constant with a hop of 128, ours of 512 do.

The inverse is exact for spectra of signals. For others it is the signal whose spectrum is nearest (`spectra`, eq. 2).
The map is not affine, and its image has more coordinates than x: a density of z gives none of x, so there is no
log-Jacobian, and likelihoods are refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from data_lib.forms import Form, Sounds
from io_lib import spectra


@dataclass(frozen=True)
class ComplexSTFT:
    """(1) of recordings [N, length, 1] with full scale ±1: [N, window_length//2 + 1, ⌈length/hop⌉ + 1, 2].

    Model space is that of the spectrograms, so config.shape is `shape`. ValueError unless the windows add to a constant
    (COLA), 0 < exponent ≤ 1, and scale, rate and length are positive.

    >>> ComplexSTFT(rate=8000, length=4096, window_length=256, hop=64).shape
    (129, 65, 2)
    """

    rate: int = 16_000
    length: int = 16_384
    window_length: int = 512
    hop: int = 128
    window: str = "hann"
    exponent: float = 0.5
    scale: float = 0.15

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.length > 0 and self.scale > 0 and 0 < self.exponent <= 1):
            raise ValueError(
                f"ComplexSTFT: expected positive rate, length and scale, and 0 < exponent <= 1, got {self.rate}, "
                f"{self.length}, {self.scale} and {self.exponent}"
            )
        spectra.require_cola(self._window(), self.hop)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of one event in model space: frequencies, frames, real and imaginary part."""
        return self.window_length // 2 + 1, spectra.num_frames(self.length, self.hop), 2

    @property
    def slope(self) -> float:
        """None: ValueError with the reason, for what requires an affine transform."""
        count = int(np.prod(self.shape))
        raise ValueError(
            f"ComplexSTFT is not affine, and maps {self.length} values to {count}: a density in model space gives none "
            f"of the waveforms, so likelihoods and posteriors require transform=Waveform"
        )

    def data_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one event of the data, for `shape` in model space. ValueError for another."""
        if tuple(shape) != self.shape:
            raise ValueError(f"ComplexSTFT: expected config.shape={self.shape}, got {tuple(shape)}")
        return self.length, 1

    def forward(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        x = np.asarray(x, dtype)
        if x.shape[-2:] != (self.length, 1):
            raise ValueError(f"ComplexSTFT: expected recordings [N, {self.length}, 1], got {x.shape}")
        c = spectra.stft(x[..., 0], self._window(), self.hop)
        magnitude = np.abs(c)
        with np.errstate(divide="ignore"):
            factor = np.where(magnitude > 0, self.scale * magnitude ** (self.exponent - 1), 0)
        z = (c * factor).swapaxes(-1, -2)
        return np.stack([np.real(z), np.imag(z)], axis=-1).astype(dtype)

    def inverse(self, x: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        x = np.asarray(x, dtype)
        z = (x[..., 0] + 1j * x[..., 1]).swapaxes(-1, -2) / self.scale
        c = z * np.abs(z) ** (1 / self.exponent - 1)
        return spectra.istft(c, self._window(), self.hop, self.length)[..., None].astype(dtype)

    def form(self, shape: tuple[int, ...]) -> Form:
        return Sounds(self, self.rate)

    def _window(self) -> np.ndarray:
        return spectra.window_of(self.window, self.window_length)
