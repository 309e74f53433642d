"""Objectives: what is minimized. The training step draws times and keys; an objective computes losses with them.

    loss(θ) = mean_i ℓ_i(θ),   ℓ = objective(keys, t, network, batch, state) [B]                          (1)

An objective is one value with all that it needs: the process, the parameterization, a distribution of t, a weight, a
teacher. The step passes

    keys [B]   one key per sample: all other noise of sample i comes from keys[i];
    t          the times that `objective.times` drew: one draw for the whole batch, as stratified times require;
    network    the network with parameters, (x, c_noise, cond) → output, with the same dropout masks at every call;
               `network.replace(params=...)` is the network with other parameters: the EMA's, or a teacher's;
    batch      a dict of arrays [B, ...]: "x" and, if there is one, the condition, or a dict of several;
    state      the TrainState: `state.params` are the parameters that the gradient is taken with respect to,
               `state.ema_params` their average, `state.step` the number of steps taken.

Keys, times and batch have one row per sample, so a batch in parts has the same loss, part by part. An objective with
parameters of its own creates them in `init`; `network_params` selects the network's from all of them.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.losses import Loss, TimeDistribution, dequantize
from sde_lib.node import Leaf, PyTreeNode, Scalar, number, static
from sde_lib.noise import fold, sample_keys
from sde_lib.parameterization import Parameterization, make_score_fn
from sde_lib.sde import SDE
from sde_lib.training.state import Params, TrainState

Batch = dict[str, Any]


class AppliedNetwork(PyTreeNode):
    """A network with its parameters: (x [B, ...], c_noise [B], cond) → output.

    `key` draws the dropout masks, in training only. It is the same at every call, and so are the masks.
    """

    params: Params
    key: Leaf = None
    network: Callable = static()
    train: bool = static(False)

    def __call__(self, x: Array, c_noise: Array, cond: Any = None) -> Array:
        return self.network(self.params, x, c_noise, cond=cond, key=self.key if self.train else None, train=self.train)


class Objective(PyTreeNode, abc.ABC):
    """What a training step minimizes (1). A subclass defines `times` and `__call__`.

    `learns_score` is False where the trained network gives no score, so that no samples can be drawn from it.
    `makes_condition` is True where the objective draws a condition of the network itself, such as a mask.
    """

    learns_score: ClassVar[bool] = True
    makes_condition: ClassVar[bool] = False

    @abc.abstractmethod
    def times(self, key: Key[Array, ""], n: int) -> Float[Array, "n ..."]:
        """The times of n samples [n], or several per sample [n, k]: one draw for the batch."""

    @abc.abstractmethod
    def __call__(
        self, keys: Key[Array, " B"], t: Array, network: AppliedNetwork, batch: Batch, state: TrainState
    ) -> Float[Array, " B"]:
        """ℓ_i of (1), one value per sample; entry i is a function of row i of keys, t and batch only."""

    def init(self, key: Key[Array, ""], params: Params) -> Params:
        """All trained parameters, given the network's: only those, unless the objective has its own."""
        return params

    def network_params(self, params: Params) -> Params:
        """The network's part of all trained parameters."""
        return params

    def figures(self) -> dict[str, "Objective"]:
        """Further figures of the test data, by name: means of these objectives, which are not minimized."""
        return {}


class ScoreMatching(Objective):
    """A loss of the score: denoising score matching, or any other `loss(keys, score_fn, sde, x0, t)`.

    Discrete data have no density. To train for their likelihood, set `bin_width`, the distance between neighboring
    values in model space: data are then spread uniformly over their bins (`dequantize`).
    """

    sde: SDE
    parameterization: Parameterization
    loss: Loss = static()
    time_distribution: TimeDistribution
    bin_width: Scalar = number(0.0, at_least=0)

    @property
    def requires(self) -> tuple[str, ...]:
        """The methods that the loss requires of the SDE, looking through functools.partial."""
        return getattr(getattr(self.loss, "func", self.loss), "requires", ())

    def times(self, key: Key[Array, ""], n: int) -> Float[Array, " n"]:
        return self.time_distribution(key, self.sde, n)

    def __call__(
        self, keys: Key[Array, " B"], t: Float[Array, " B"], network: AppliedNetwork, batch: Batch, state: TrainState
    ) -> Float[Array, " B"]:
        score_fn = make_score_fn(partial(network, cond=condition(batch)), self.sde, self.parameterization)
        x0 = dequantize(fold(keys, 2), batch["x"], self.bin_width) if self.bin_width else batch["x"]
        return self.loss(keys, score_fn, self.sde, x0, t)


def condition(batch: Batch) -> Any:
    """The network's condition: batch["cond"], else batch["label"], else None."""
    return batch.get("cond", batch.get("label"))


def draws(objective: Objective, key: Key[Array, ""], n: int) -> tuple[Key[Array, " n"], Array, Key[Array, ""]]:
    """(keys [n], t, dropout key) of a batch: its randomness, as a function of one key."""
    loss_key, dropout_key = jax.random.split(key)
    time_key, noise_key = jax.random.split(loss_key)
    return sample_keys(noise_key, jnp.arange(n)), objective.times(time_key, n), dropout_key
