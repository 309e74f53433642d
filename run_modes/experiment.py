"""An experiment: a config, the objects that it specifies, and their devices, in one value.

experiment = make_experiment(config)
state = init_state_on_devices(experiment)        # in `run_modes.state`
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, build
from data_lib import Conditions, Form, form_of
from models.network import as_network
from run_modes.compilation import use_cache
from run_modes.conditions import built_conditions
from run_modes.data import build_transform
from run_modes.devices import Devices, make_devices
from run_modes.guidance import guidance_of, interval_of
from run_modes.labels import check_label, guidance, num_classes
from sde_lib import Augmentation, Likelihood, NoisyClassifier, ScoreModel
from sde_lib.training.augmentation import DIM

NO_SAMPLERS = (
    *("use", "batch_size", "label", "classes", "guidance", "guidance_each", "guidance_interval"),
    *("classifier", "classifier_scale"),
)
"""The entries of config.sampling that are not samplers."""
OF_OBJECTIVES = ("sde", "parameterization", "loss", "time_distribution")
"""Sections of a config that an objective receives if it has a field of that name."""


class Experiment(NamedTuple):
    """A config, the objects built from it, and the devices.

    `classifier` is that of config.sampling. `open_trained` reads it; it is None in training.
    """

    config: ConfigDict
    devices: Devices
    sde: Any
    parameterization: Any
    network: Any
    objective: Any
    tx: Any
    transform: Any
    sampler: Any
    likelihood: Likelihood
    augment: Augmentation | None = None
    conditions: Conditions | None = None
    classifier: NoisyClassifier | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes of samples: the network's, or else that of the classifier that guides it; 0: none."""
        return num_classes(self.config) or getattr(self.classifier, "num_classes", 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event."""
        return tuple(self.config.shape)

    def score_model(self, params) -> ScoreModel:
        """The model with these network parameters: a ScoreModel, or what config.model names, as a TokenModel."""
        parts: dict[str, Any] = {
            **{"sde": self.sde, "parameterization": self.parameterization, "network": self.network, "params": params},
            **{"sampler": self.sampler, "shape": self.shape, "transform": self.transform},
        }
        if "model" in self.config:
            return build(self.config.model, "config.model")(**parts)
        guidance = guidance_of(self.config, self.sde, self.classifier)
        return ScoreModel(**parts, likelihood=self.likelihood, guidance=guidance, conditions=self.conditions)

    @property
    def form(self) -> Form:
        """What a sample is: how it is stored, written and drawn."""
        return form_of(self.transform, self.shape)


def make_experiment(config: ConfigDict, devices: list | None = None, processes: bool = False) -> Experiment:
    """The objects of a config, on these devices, or all. ConfigError naming the wrong section; nothing is compiled."""
    use_cache()
    sde = build(config.sde, "config.sde")
    network = as_network(build(config.network, "config.network"))
    likelihood = build(config.eval.get("likelihood", Likelihood()), "config.eval.likelihood")
    if not hasattr(sde, "alpha"):  # without a kernel, only p at t_min can be computed
        likelihood = likelihood.replace(to_data=False)
    experiment = Experiment(
        config=config,
        devices=make_devices(devices, processes),
        sde=sde,
        parameterization=build(config.parameterization, "config.parameterization"),
        network=network,
        objective=None,
        tx=build(config.optimizer, "config.optimizer"),
        transform=build_transform(config),
        sampler=build_sampler(config, sde),
        likelihood=likelihood,
        augment=build_augmentation(config, network),
        conditions=built_conditions(config),
    )
    check_label(config)
    check_guidance(experiment)
    return experiment._replace(objective=build_objective(experiment))


def check_guidance(experiment: Experiment) -> None:
    """ConfigError unless config.sampling.guidance_each names the run's conditions, of which there are several.

    Also for an interval of guidance that is none, or that limits no guidance.
    """
    config = experiment.config
    if guidance_of(config, experiment.sde) is None and interval_of(config) and not config.sampling.get("classifier"):
        raise ConfigError(
            "config.sampling.guidance_interval limits guidance, but there is none: set config.sampling.guidance, "
            "guidance_each or classifier"
        )
    scales, conditions = guidance(experiment.config), experiment.conditions
    if not isinstance(scales, dict):
        return
    names = () if conditions is None or conditions.is_single else conditions.names
    if not names and experiment.config.get("cond"):
        raise ConfigError("config.sampling.guidance_each: the run has one condition; use config.sampling.guidance")
    if names and sorted(scales) != sorted(names):
        raise ConfigError(f"config.sampling.guidance_each: expected {', '.join(names)}, got {', '.join(scales)}")


def build_sampler(config: ConfigDict, sde):
    """The sampler that config.sampling.use names. ConfigError if there is none, or if it does not fit the SDE."""
    choice = config.sampling.use
    if choice not in config.sampling or choice in NO_SAMPLERS:
        choices = sorted(key for key in config.sampling if key not in NO_SAMPLERS)
        raise ConfigError(f"config.sampling.use is {choice!r}: expected one of {', '.join(choices)}")
    sampler = build(config.sampling[choice], f"config.sampling.{choice}")
    try:
        sampler.check(sde)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.sampling.{choice}: {error}") from error
    return sampler


def build_objective(experiment: Experiment):
    """config.objective with the sections of OF_OBJECTIVES that are its fields; ConfigError if the SDE does not fit."""
    target = build(experiment.config.objective, "config.objective")
    fields = {field.name for field in dataclasses.fields(getattr(target, "func", target))}
    given = {name: getattr(experiment, name, None) for name in OF_OBJECTIVES if name in fields}
    for name in given.keys() & {"loss", "time_distribution"}:
        given[name] = build(experiment.config[name], f"config.{name}")
    try:
        objective = target(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.objective: {error}") from error
    missing = [name for name in requires(objective) if not hasattr(experiment.sde, name)]
    if missing:
        what = f"requires {' and '.join(missing)} of the SDE, which {type(experiment.sde).__name__} lacks"
        if not objective.learns_score:
            raise ConfigError(f"config.objective {what}")
        raise ConfigError(
            f"config.loss {what}: "
            f"without a kernel use transition_loss or sliced_loss, with PredictPathScore for config.parameterization"
        )
    return objective


def build_augmentation(config: ConfigDict, network) -> Augmentation | None:
    """config.augmentation, or None if its probability is 0. ConfigError unless the network is conditioned on it."""
    augment = build(config.augmentation, "config.augmentation") if "augmentation" in config else None
    if augment is None or not augment.probability:
        return None
    if len(config.shape) != 3:
        raise ConfigError(f"config.augmentation is for images [H, W, C], config.shape is {tuple(config.shape)}")
    if config.network.get("cond_dropout", 0):
        raise ConfigError("config.augmentation would leak: config.network.cond_dropout drops its vector at times")
    try:
        jax.eval_shape(network.init, jax.random.key(0), *first_inputs(config), no_augmentation(config, 1))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.augmentation conditions the network on a vector: set config.network.cond_dim={DIM} ({error})"
        ) from error
    return augment


def no_augmentation(config: ConfigDict, n: int):
    """The conditioning of untransformed images: a vector, with None as class label if the network has classes."""
    vector = jnp.zeros((n, DIM), jnp.float32)
    return (None, vector) if num_classes(config) else vector


def first_inputs(config: ConfigDict) -> tuple[jax.Array, jax.Array]:
    """x and c_noise of one example, for the initialization of parameters."""
    return jnp.zeros((1, *config.shape), jnp.float32), jnp.zeros(1, jnp.float32)


def requires(function) -> tuple[str, ...]:
    """`function.requires`, also of a functools.partial: what a loss requires of an SDE, or a report of the data."""
    return getattr(getattr(function, "func", function), "requires", ())
