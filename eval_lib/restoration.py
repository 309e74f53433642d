"""How near a restored image is to the truth: peak signal-to-noise ratio and structural similarity.

    PSNR = 10 log10(R²/mean (x − y)²) dB,   R the range of the data                                        (1)

    SSIM = mean over places of (2 μ_x μ_y + C_1)(2 σ_xy + C_2) / [(μ_x² + μ_y² + C_1)(σ_x² + σ_y² + C_2)],   (2)

with C_1 = (0.01 R)², C_2 = (0.03 R)², and moments weighted by a normal density of 1.5 pixels, cut off at 5. Places
closer than 5 pixels to an edge are left out, along axes longer than 10. scikit-image's `structural_similarity` with
Gaussian weights and population covariances is the same there. Channels are averaged.

Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment: from error visibility to structural similarity",
equations 13 to 17.
"""

import numpy as np

STD, RADIUS = 1.5, 5


def psnr(x: np.ndarray, truth: np.ndarray, data_range: float) -> float:
    """(1) in decibels; infinite for equal arrays. ValueError for arrays of different shapes."""
    x, truth = _pair(x, truth)
    error = np.mean((x - truth) ** 2)
    return float(10 * np.log10(data_range**2 / error)) if error else float("inf")


def ssim(x: np.ndarray, truth: np.ndarray, data_range: float) -> float:
    """(2), for arrays [*space, C] of any number of axes of space. ValueError for arrays of different shapes."""
    from scipy.ndimage import gaussian_filter

    x, truth = _pair(x, truth)
    axes = tuple(range(x.ndim - 1))
    blur = lambda a: gaussian_filter(a, STD, mode="reflect", radius=RADIUS, axes=axes)  # noqa: E731
    mean_x, mean_y = blur(x), blur(truth)
    variance = blur(x * x) - mean_x**2 + blur(truth * truth) - mean_y**2
    covariance = blur(x * truth) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    places = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))
    inner = tuple(slice(RADIUS, -RADIUS) if n > 2 * RADIUS else slice(None) for n in x.shape[:-1])
    return float(places[inner].mean())


def _pair(x: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(x) != np.shape(truth):
        raise ValueError(f"expected arrays of one shape, got {np.shape(x)} and {np.shape(truth)}")
    return np.asarray(x, np.float64), np.asarray(truth, np.float64)
