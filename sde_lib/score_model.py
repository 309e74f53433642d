"""A trained model as one value: process, parameterization, network and parameters, and the operations on them.

Data x are in their own units, as `sample` returns them. Scores and latent codes are in model space, to which the
transform F maps the data: log p(x) = log p(F(x)) + Σ log |dF/dx|.
"""

import dataclasses
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from sde_lib.guidance import Guidance, as_guidance, labels_of
from sde_lib.likelihood.bits import Elbo, bits_per_dim, elbo
from sde_lib.likelihood.dequantization import Dequantizer
from sde_lib.likelihood.divergence import Exact
from sde_lib.likelihood.flow import Likelihood, LogProb
from sde_lib.node import PyTreeNode, Scalar, number, static
from sde_lib.noise import sample_keys
from sde_lib.numbers import AT_LEAST_ONE, POSITIVE, Allowed, check_number, concrete, precision
from sde_lib.numbers.keys import by_rows, require_indices, require_key, require_labels, require_rows, rows_of_shape
from sde_lib.parameterization import Parameterization, ScoreFn, denoised, make_score_fn, network_output, x0_hat
from sde_lib.posterior.observation import Observation
from sde_lib.posterior.scores import MMPS, Method
from sde_lib.sampling import AnySampler, Sampler, Start
from sde_lib.sde import SDE, GaussianSDE, Time, has_kernel
from sde_lib.solvers.learned_variance import with_variance
from sde_lib.training.xla import jit

Data = np.ndarray | Array
"""Data [B, *shape] in their own units."""


class ScoreModel(PyTreeNode):
    """A score network with its parameters, for events of one shape.

    `network` is a Network (params, x, c_noise); `sampler` is a Sampler, AdaptiveSDE or ProbabilityFlowODE. `transform`
    maps data to model space (forward) and back (inverse). It is affine with the factor `slope`; None is the identity.
    `split`, a sharding, distributes the batches of likelihoods and codes over devices. Row i of samples and of
    likelihood estimates is a function of (key, i) and its own data only, up to rounding.

    `conditions` maps cond from the units of the data to the network's input, by `forward(cond, rows)`; None: as is.

    `guidance` applies to samples with a cond: a `ClassifierFree`, `ByEach`, `ByClassifier` or `InInterval` of
    `sde_lib.guidance`. A number w is `ClassifierFree(scale=w)`, a dict `ByEach(scales=…)`; they require a network that
    was trained without its condition too (`cond_dropout`, `cond_dropout_each`). None is the score conditioned on cond.
    Likelihoods, bounds and codes always use that score. `observed` is set by `given`: what a posterior's score is
    conditioned on, in model space, and its method.
    """

    sde: SDE
    parameterization: Parameterization
    params: Any
    sampler: AnySampler = Sampler()
    likelihood: Likelihood = dataclasses.field(default_factory=lambda: Likelihood())
    guidance: Guidance | Scalar | dict[str, Scalar] | None = number(None)
    network: Any = static(None)
    shape: tuple[int, ...] = static(())
    transform: Any = static(None)
    split: Any = static(None)
    conditions: Any = static(None)
    dtype: Any = static(None)
    observed: tuple[Observation, Method] | None = None

    def astype(self, dtype: Any) -> "ScoreModel":
        """The model with all its arrays in float32 or float64, in which it then computes (`numbers.precision`)."""
        return precision.cast(self, dtype).replace(dtype=np.dtype(dtype))

    def given(self, observation: Observation, method: Method | None = None) -> "ScoreModel":
        """The model of p(x | y): its samples, likelihoods and codes are the posterior's (`sde_lib.posterior`).

        The observation is that of data in their own units: y, noise_std, and what the operator receives. The default
        method is MMPS(). ValueError if it does not fit, or the transform's slope is not one number; TypeError if the
        SDE has no kernel.
        """
        if not has_kernel(self.sde):
            raise TypeError(f"a posterior requires alpha and sigma of the SDE, which {type(self.sde).__name__} lacks")
        slope = 1.0 if self.transform is None else self.transform.slope
        offset = self.to_model(np.zeros((1, *self.shape)))
        method = MMPS() if method is None else method
        method.check(observation)
        return method.condition(self, observation.in_model_space(slope, offset, self.shape))

    def posterior(
        self,
        key: Key[Array, ""],
        observation: Observation,
        n: Scalar,
        method: Method | None = None,
        cond: Any = None,
        rounded: bool = True,
    ) -> np.ndarray:
        """n samples of p(x | y_i) for each of the B rows of y: [B, n, *shape], as `sample` and `given`.

        Answer j to y_i is a function of (key, i, j). cond has B rows.
        """
        answers = []
        for i in range(len(observation.y)):
            rows = jax.tree.map(lambda c, i=i: np.repeat(np.asarray(c)[i : i + 1], n, axis=0), cond)
            model = self.given(observation.take(np.array([i])), method)
            answers.append(model.sample(jax.random.fold_in(key, i), n, rows, rounded=rounded))
        return np.stack(answers)

    def score(self, x: Float[Array, "B ..."], t: Time, cond: Any = None) -> Float[Array, "B ..."]:
        """∇log p_t(x) [B, *shape], for x [B, *shape] in model space, t [] or [B], cond in the units of the data."""
        return self._score(x, t, self._network_cond(cond, x.shape[0]))

    def denoise(self, x: Float[Array, "B ..."], t: Time, cond: Any = None) -> Float[Array, "B ..."]:
        """x̂₀ = E[x_0 | x_t = x] [B, *shape] in model space; t and cond as in `score`. Accurate where σ is large."""
        if self.observed is not None:
            return x0_hat(cast(GaussianSDE, self.sde), x, t, self.score(x, t, cond))
        network = partial(self.network, self.params, cond=self._network_cond(cond, x.shape[0]))
        return denoised(network, self.sde, self.parameterization, x, t)

    def _output(self, x: Float[Array, "B ..."], t: Time, cond: Any = None) -> Array:
        """The network's output, with the channels of a learned variance."""
        return network_output(partial(self.network, self.params, cond=cond), self.parameterization(self.sde, t), x)

    def _score(self, x: Float[Array, "B ..."], t: Time, cond: Any = None) -> Float[Array, "B ..."]:
        """The score, for cond as the network takes it."""
        network = partial(self.network, self.params)
        if self.observed is not None and has_kernel(self.sde):
            observation, method = self.observed
            return method.model_score(network, self.sde, self.parameterization, observation, cond)(x, t)
        return make_score_fn(partial(network, cond=cond), self.sde, self.parameterization)(x, t)

    def _require_score(self) -> None:
        """ValueError if the model is conditioned by its sampler alone, and so has no likelihood."""
        if self.observed is not None and not self.observed[1].has_score:
            raise ValueError(f"{type(self.observed[1]).__name__} has samples, but no likelihood or codes; use MMPS()")

    def _network_cond(self, cond: Any, rows: int | None) -> Any:
        return cond if self.conditions is None else self.conditions.forward(cond, rows)

    def sample(
        self, key: Key[Array, ""], n: Scalar, cond: Any = None, x_T: Start = None, rounded: bool = True
    ) -> np.ndarray:
        """n samples [n, *shape]; sample i is a function of (key, i) only.

        Samples are in the units of the data. Images of 8 bits, whose transform is that of 0 … 255, are uint8; with
        `rounded` False they are neither rounded nor clipped.
        They start from x_T [n, *shape] in model space if it is given (encoded data, or one point n times), else from
        the prior. cond has n rows: labels from 0 to num_classes − 1, or num_classes for no class, or whatever else the
        network is conditioned on. Raises ValueError for other labels, another number of rows, and n < 0.
        """
        require_key(key)
        if concrete(n) is None:
            raise ValueError(f"sample: expected a whole number n >= 0; got {type(n).__name__}")
        check_number("sample", "n", n, Allowed(at_least=0, whole=True))
        x = self.sample_indices(key, jnp.arange(n), cond, x_T)
        integers = getattr(self._form(), "integers", False)  # the data's own, as pixels of 0 … 255 are
        return self.to_samples(x) if rounded and integers else self.to_data(x)

    def sample_indices(
        self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None, x_T: Start = None
    ) -> Float[Array, "B ..."]:
        """The samples with these indices in the stream of `key`, [B, *shape] in model space."""
        return self.with_nfe(key, indices, cond, x_T)[0]

    def with_nfe(
        self, key: Key[Array, ""], indices: Integer[Array, " B"], cond: Any = None, x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """(samples with these indices [B, *shape] in model space, score evaluations of each [B])."""
        require_indices(indices)
        return self.of_keys(sample_keys(key, indices), cond, x_T)

    def of_keys(
        self, keys: Key[Array, " B"], cond: Any = None, x_T: Start = None
    ) -> tuple[Float[Array, "B ..."], Integer[Array, " B"]]:
        """As `with_nfe`: sample i is a function of keys[i]."""
        self.check()
        return by_rows(partial(_sample, self), keys, self._rows_of(cond, len(keys)), x_T)

    def log_prob(self, key: Key[Array, ""], x: Data, cond: Any = None) -> LogProb:
        """log p(x) in nats for data x [B, *shape], by the probability-flow ODE, with its error (`LogProb`)."""
        volume = self._log_volume()
        keys, x = self._keys(key, x), self.to_model(x)
        found = by_rows(partial(_log_prob, self), keys, x, self._rows_of(cond, len(x)))
        return found._replace(value=found.value + volume)

    def encode(self, x: Data, cond: Any = None) -> Float[Array, "B ..."]:
        """The latent codes [B, *shape] of data x: the end of the flow at t_max."""
        self._require_score()
        x = self.to_model(x)
        return by_rows(partial(_encode, self), x, self._rows_of(cond, len(x)))

    def decode(self, z: Float[Array, "B ..."], temperature: float = 1.0, cond: Any = None) -> np.ndarray:
        """The data [B, *shape] of temperature · z, for latent codes z: the inverse of `encode` at temperature 1."""
        self._require_score()
        check_number("decode", "temperature", temperature, Allowed(at_least=0))
        z = jnp.asarray(rows_of_shape(z, self.shape), self.dtype)
        return self.to_data(by_rows(partial(_decode, self, temperature), z, self._rows_of(cond, len(z))))

    def bits_per_dim(
        self,
        key: Key[Array, ""],
        x: Data,
        samples: int = 1,
        step: float | None = None,
        cond: Any = None,
        first: int = 0,
        dequantizer: Dequantizer | None = None,
    ) -> Float[Array, " B"]:
        """Bits per dimension [B] of discrete data x [B, *shape], by dequantization with `samples` draws.

        See `sde_lib.likelihood.bits`. The draws are uniform, or from a trained `dequantizer`, which is in model space.
        `step` is the distance between neighboring values in the units of the data: 1 for integer types, required for
        others. `first` is the index of x's first row in the stream of `key`, for a data set in several parts.

        Raises ValueError without a step. Raises it also for several samples with a likelihood estimated by probes:
        their noise is averaged as exp(noise), which would overestimate the likelihood.
        """
        if samples > 1 and not isinstance(self.likelihood.divergence, Exact):
            raise ValueError(
                f"{samples} samples for bits per dimension require an exact divergence: Likelihood(divergence=Exact())"
            )
        check_number("bits_per_dim", "samples", samples, AT_LEAST_ONE)
        keys, width = self._keys(key, x, first), self.bin_width(x, step)
        cond = self._rows_of(cond, len(x))
        return by_rows(partial(_bits, self, width, dequantizer, samples), keys, self.to_model(x), cond)

    def elbo(
        self,
        key: Key[Array, ""],
        x: Data,
        num_times: int = 32,
        levels: Any = None,
        cond: Any = None,
        first: int = 0,
    ) -> Elbo:
        """The reverse SDE's lower bound on log p(x) in nats (`sde_lib.likelihood.bits`).

        With `levels`, all values that x can take, it bounds log P(x) of discrete data. That requires a transform that
        treats all coordinates alike, else ValueError.
        """
        if levels is not None:
            if self.transform is not None and np.ndim(self.transform.slope):
                raise ValueError("the ELBO of discrete data requires a transform that treats all coordinates alike")
            levels = np.asarray(precision.forward(self.transform, np.asarray(levels), self.dtype))
        volume = 0.0 if levels is not None else self._log_volume()
        keys, cond = self._keys(key, x, first), self._rows_of(cond, len(x))
        found = by_rows(partial(_elbo, self, levels, num_times), keys, self.to_model(x), cond)
        return found._replace(value=found.value + volume)

    def bin_width(self, x: Data, step: float | None = None) -> np.ndarray:
        """The distance between neighboring values of x in model space, per coordinate. ValueError if it is unknown."""
        if step is None and not np.issubdtype(np.asarray(x).dtype, np.integer):
            raise ValueError(
                f"bits per dimension require discrete data: expected an integer type, got {np.asarray(x).dtype}. For "
                f"other discrete values pass `step`; continuous data have a log density in nats, by log_prob"
            )
        check_number("bits per dimension", "step", step, POSITIVE)
        return np.abs(self._slope()) * (1.0 if step is None else step)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of an event in the units of the data: `shape`, unless the transform has a `data_shape` of it."""
        return getattr(self.transform, "data_shape", tuple)(self.shape)

    def to_model(self, x: Data) -> Float[Array, "B ..."]:
        """Data [B, *shape] in model space. Raises ValueError for another shape."""
        z = precision.forward(self.transform, rows_of_shape(x, self.data_shape), self.dtype)
        return z if self.split is None else jax.device_put(z, self.split)

    def to_data(self, x: Data) -> np.ndarray:
        """x [B, *shape] from model space to the units of the data."""
        return precision.inverse(self.transform, x, self.dtype)

    def to_samples(self, x: Data) -> np.ndarray:
        """x from model space as samples are stored: as the transform's form does, which has uint8 for images."""
        form = self._form()
        return self.to_data(x) if form is None else form.to_samples(x, self.dtype)

    def _slope(self) -> np.ndarray:
        """dF/dx, for each coordinate."""
        slope = 1.0 if self.transform is None else self.transform.slope
        return np.broadcast_to(np.asarray(slope, self.dtype or np.float32), self.shape)

    def _log_volume(self) -> float:
        """Σ log |dF/dx|."""
        return float(np.sum(np.log(np.abs(self._slope()))))

    def _keys(self, key, x, first: int = 0) -> Key[Array, " B"]:
        require_key(key)
        self._require_score()
        return sample_keys(key, first + jnp.arange(len(rows_of_shape(x, self.data_shape))))

    def check(self) -> None:
        """Raises TypeError or ValueError if the sampler does not fit the process, where it has a `check`."""
        getattr(self.sampler, "check", lambda sde: None)(self.sde)

    def _rows_of(self, cond: Any, rows: int) -> Any:
        """cond as the network takes it. ValueError unless it has these rows, and labels of the network's classes."""
        if isinstance(cond, list | tuple) and all(isinstance(c, int | np.integer) for c in cond):
            cond = np.asarray(cond, np.int32)
        cond = self._network_cond(cond, rows)
        require_rows(cond, rows)
        classes = getattr(self.network, "num_classes", None) or getattr(self.guidance, "num_classes", None)
        require_labels(labels_of(cond), classes or 0)
        return cond

    def _form(self) -> Any:
        """What a sample is, by `transform.form`; None for arrays in the units of the data."""
        return getattr(self.transform, "form", lambda shape: None)(self.shape)

    def score_given(self, cond: Any = None) -> ScoreFn:
        """The score (x, t) → [B, ...] conditioned on cond, in the units of the data, with `guidance` if it is set."""
        return self._score_given(self._network_cond(cond, None))

    def _score_given(self, cond: Any = None) -> ScoreFn:
        score_given, guidance = lambda cond: partial(self._score, cond=cond), as_guidance(self.guidance)
        score_fn = score_given(cond) if cond is None or guidance is None else guidance(score_given, cond)
        return with_variance(score_fn, lambda x, t: self._output(x, t, cond)[..., x.shape[-1] :])


@jit
def _sample(model: ScoreModel, keys: Key[Array, " B"], cond: Any, x_T: Start):
    x, nfe = model.sampler.with_nfe(keys, model.sde, model._score_given(cond), model.shape, x_T)
    if model.observed is None:
        return x, nfe
    observation, method = model.observed
    return method.finish(observation, x), nfe


@jit
def _log_prob(model: ScoreModel, keys: Key[Array, " B"], x: Float[Array, "B ..."], cond: Any) -> LogProb:
    return model.likelihood.log_prob(keys, model.sde, model._score, x, cond)


@jit
def _encode(model: ScoreModel, x: Float[Array, "B ..."], cond: Any):
    return model.likelihood.encode(model.sde, model._score, x, cond)


@jit
def _decode(model: ScoreModel, temperature, z: Float[Array, "B ..."], cond: Any):
    return model.likelihood.decode(model.sde, model._score, z, temperature, cond)


@partial(jit, static_argnums=3)
def _bits(
    model: ScoreModel, width, dequantizer, samples: int, keys: Key[Array, " B"], x: Float[Array, "B ..."], cond: Any
):
    def log_prob(keys, x):
        return model.likelihood.log_prob(keys, model.sde, model._score, x, cond).value

    return bits_per_dim(keys, log_prob, x, bin_width=width, samples=samples, dequantizer=dequantizer)


@partial(jit, static_argnums=2)
def _elbo(model: ScoreModel, levels, num_times: int, keys: Key[Array, " B"], x: Float[Array, "B ..."], cond: Any):
    return elbo(keys, model.sde, partial(model._score, cond=cond), x, num_times=num_times, levels=levels)
