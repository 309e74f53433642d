"""The handwritten digits that come with scikit-learn: real data without a download."""

import numpy as np

from data_lib.arrays import from_arrays
from data_lib.sources import Dataset


def digits(test: int = 500, seed: int = 0) -> Dataset:
    """1,797 digits, x uint8 [8, 8, 1] with values 0..16, label 0..9, split at random by `seed`.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test set.
    The transform into model space is `Scale(0, 16)`.
    """
    from sklearn.datasets import load_digits  # a second to import

    x, label = load_digits(return_X_y=True)
    return from_arrays(np.asarray(x, np.uint8).reshape(-1, 8, 8), np.asarray(label), test, seed, name="digits")
