"""A small classifier of images, trained on the spot in seconds: for data that no published network was trained on."""

import hashlib
import warnings

import numpy as np
from threadpoolctl import threadpool_limits


class Classifier:
    """A network with one hidden layer, on pixels standardized by one mean and one standard deviation.

    Standardizing each pixel by itself would amplify edge pixels, which are mostly noise. Everything runs in one
    thread: for matrices this small, several threads that waited for each other on a busy machine took ten times longer.
    """

    @threadpool_limits.wrap(limits=1)
    def __init__(self, x: np.ndarray, label: np.ndarray, seed: int, width: int = 256) -> None:
        """Trained on x [N, pixels] and label [N]."""
        from sklearn.exceptions import ConvergenceWarning  # a second to import
        from sklearn.neural_network import MLPClassifier

        self._mean, self._std = x.mean(), x.std()
        self._network = MLPClassifier((width,), alpha=1e-2, max_iter=60, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # sixty epochs are enough: reports give the accuracy
            self._network.fit(self._standard(x), label)
        self.classes = self._network.classes_

    @threadpool_limits.wrap(limits=1)
    def __call__(self, x: np.ndarray) -> np.ndarray:
        """p(class | x) [N, classes]."""
        return np.asarray(self._network.predict_proba(self._standard(x)))

    @threadpool_limits.wrap(limits=1)
    def hidden(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hidden layer [N, width] and the logits [N, classes]."""
        (first, last), (bias, last_bias) = self._network.coefs_, self._network.intercepts_
        features = np.maximum(self._standard(x) @ first + bias, 0)
        return features, features @ last + last_bias

    def digest(self) -> str:
        """SHA-256 of the weights and of the standardization."""
        arrays = (*self._network.coefs_, *self._network.intercepts_, np.array([self._mean, self._std]))
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self._mean) / self._std
