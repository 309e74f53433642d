"""Classification of noisy data: a network that estimates p_t(c | x) at every noise level, for guidance.

    ℓ_i = −log p(c_i | x_t, t),   x_t = α x_0 + σ z                                                        (1)
    p(c | x, t) = softmax_c F(c_in x, c_noise)                                                             (2)

The mean of (1) is smallest for the posterior p_t(c | x) of the noisy data, where it is the conditional entropy
H(c | x_t). Its gradient with respect to x is the second term of ∇log p_t(x | c) = ∇log p_t(x) + ∇log p_t(c | x)
(Song et al. 2021, arXiv:2011.13456, appendix I; Dhariwal & Nichol 2021, arXiv:2105.05233, section 4). c_in and c_noise
are those of a parameterization, so the classifier receives the inputs that a score network receives.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sde_lib.guidance.values import whole_labels
from sde_lib.losses import TimeDistribution
from sde_lib.node import PyTreeNode, static
from sde_lib.parameterization import Parameterization
from sde_lib.sde import KERNEL, GaussianSDE, Time, expand
from sde_lib.training.objective import AppliedNetwork, Batch, Objective, condition
from sde_lib.training.state import Params, TrainState

LogProbFn = Callable[[Float[Array, "B ..."], Time], Float[Array, " B"]]
"""(x [B, ...], t [] or [B]) → log p_t(c_i | x_i) [B]."""


def log_probs(
    network: Callable[[Array, Array], Array],
    sde: GaussianSDE,
    parameterization: Parameterization,
    x: Float[Array, "B ..."],
    t: Time,
) -> Float[Array, "B K"]:
    """log p(c | x, t) of (2) for each of K classes. `network` maps (c_in x, c_noise [B]) to logits [B, K]."""
    c = parameterization(sde, t)
    c_noise = jnp.broadcast_to(jnp.asarray(c.c_noise, x.dtype), x.shape[:1])
    return jax.nn.log_softmax(network(expand(c.c_in, x) * x, c_noise), axis=-1)


def log_prob(
    network: Callable[[Array, Array], Array],
    sde: GaussianSDE,
    parameterization: Parameterization,
    labels: Int[Array, " B"],
) -> LogProbFn:
    """(x, t) → log p(c_i | x_i, t) of (2) for these labels, as `classifier_guided` takes it.

    It is 0 for a label outside 0 … K − 1, so a sample with the label K of no class is not guided.
    """

    def of_labels(x: Float[Array, "B ..."], t: Time) -> Float[Array, " B"]:
        return at_labels(log_probs(network, sde, parameterization, x, t), labels)

    return of_labels


def at_labels(values: Float[Array, "B K"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """values[i, labels[i]]; 0 for a label outside 0 … K − 1."""
    chosen = labels[:, None] == jnp.arange(values.shape[1])[None]
    return jnp.sum(jnp.where(chosen, values, 0), axis=1)


class NoisyClassification(Objective):
    """The cross-entropy (1) of a classifier of noisy data, with z from keys[i] and the labels of the batch.

    The network has no condition, and its output is logits [B, K]. The call raises ValueError for a batch without
    integer labels ("label", or a cond that has them). It logs the accuracy on test data too.
    """

    sde: GaussianSDE
    parameterization: Parameterization
    time_distribution: TimeDistribution
    requires: ClassVar[tuple[str, ...]] = KERNEL
    learns_score: ClassVar[bool] = False

    def times(self, key: Key[Array, ""], n: int) -> Float[Array, " n"]:
        return self.time_distribution(key, self.sde, n)

    def __call__(
        self, keys: Key[Array, " B"], t: Float[Array, " B"], network: AppliedNetwork, batch: Batch, state: TrainState
    ) -> Float[Array, " B"]:
        labels = whole_labels(condition(batch))
        x, _ = self.sde.perturb(keys, batch["x"], t)
        return self.of_log_probs(log_probs(network, self.sde, self.parameterization, x, t), labels)

    def of_log_probs(self, values: Float[Array, "B K"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
        """−log p(c_i), given log p of all classes."""
        return -at_labels(values, labels)

    def figures(self) -> dict[str, Objective]:
        fields = ("sde", "parameterization", "time_distribution")
        return {"accuracy": Accuracy(**{name: getattr(self, name) for name in fields})}


class Accuracy(NoisyClassification):
    """1 where the most probable class is the label, else 0; of noisy data, as in `NoisyClassification`."""

    def of_log_probs(self, values: Float[Array, "B K"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
        return (jnp.argmax(values, axis=1) == labels).astype(values.dtype)

    def figures(self) -> dict[str, Objective]:
        return {}


class NoisyClassifier(PyTreeNode):
    """A trained classifier (2): labels [B] → (x, t) → log p_t(c_i | x_i) [B], for x in model space.

    `network` is a Network whose output is logits, with `num_classes`.
    """

    sde: GaussianSDE
    parameterization: Parameterization
    params: Params
    network: Any = static()

    @property
    def num_classes(self) -> int | None:
        """The number of classes K, if the network states it."""
        return getattr(self.network, "num_classes", None)

    def __call__(self, labels: Int[Array, " B"]) -> LogProbFn:
        return log_prob(self._logits, self.sde, self.parameterization, labels)

    def probabilities(self, x: Float[Array, "B ..."], t: Time) -> Float[Array, "B K"]:
        """p(c | x, t) for each class, for x [B, ...] in model space."""
        return jnp.exp(log_probs(self._logits, self.sde, self.parameterization, x, t))

    def _logits(self, x: Array, c_noise: Array) -> Array:
        return self.network(self.params, x, c_noise)
