"""The handwritten digits that come with scikit-learn: a real data set that is there at once."""

import numpy as np

from data_lib.arrays import from_arrays
from data_lib.sources import Dataset


def digits(test: int = 500, seed: int = 0) -> Dataset:
    """1,797 digits, x uint8 [8, 8, 1] with values 0..16, label 0..9, split at random by `seed`.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), the test part.
    Model space is `Scale(0, 16)`.
    """
    from sklearn.datasets import load_digits  # a second to import

    bunch = load_digits()
    return from_arrays(bunch.images.astype(np.uint8), bunch.target, test, seed, name="digits")
