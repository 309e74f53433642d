"""What training, sampling and evaluation share: the objects of a config, devices, data, a state, a model."""

import hashlib
import logging
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from configs.spec import ConfigError, build
from data_lib import Dataset, gather, shared_examples
from io_lib.checkpoint import Checkpoints
from models.network import as_network
from run_classes import check_label, check_labels, guidance, num_classes
from sde_lib import Augmentation, Likelihood, ScoreModel, init_state
from sde_lib.augmentation import DIM

log = logging.getLogger(__name__)

# Streams of the one seed: a number for each use, folded into jax.random.key(seed).
INIT, TRAIN, EVAL, SNAPSHOT = range(4)
NO_SAMPLERS = ("use", "batch_size", "label", "guidance")
"""What config.sampling holds beside samplers by name."""


class Parts(NamedTuple):
    """What a config describes, built."""

    sde: Any
    parameterization: Any
    network: Any
    loss: Any
    tx: Any
    transform: Any
    sampler: Any
    likelihood: Likelihood
    augment: Augmentation | None = None


def build_parts(config: ConfigDict) -> Parts:
    """The objects of a config. ConfigError naming the place where it is wrong; nothing is compiled."""
    choice = config.sampling.use
    if choice not in config.sampling or choice in NO_SAMPLERS:
        choices = sorted(key for key in config.sampling if key not in NO_SAMPLERS)
        raise ConfigError(f"config.sampling.use is {choice!r}: expected one of {', '.join(choices)}")
    likelihood = build(config.eval.get("likelihood", Likelihood()), "config.eval.likelihood")
    parts = Parts(
        sde=build(config.sde, "config.sde"),
        parameterization=build(config.parameterization, "config.parameterization"),
        network=as_network(build(config.network, "config.network")),
        loss=build(config.loss, "config.loss"),
        tx=build(config.optimizer, "config.optimizer"),
        transform=build(config.transform, "config.transform"),
        sampler=build(config.sampling[choice], f"config.sampling.{choice}"),
        likelihood=likelihood,
    )
    if not hasattr(parts.sde, "alpha"):  # without a kernel p_{t_min} is all that is known
        parts = parts._replace(likelihood=likelihood.replace(to_data=False))
    try:
        parts.sampler.check(parts.sde)
    except TypeError as error:
        raise ConfigError(f"config.sampling.{choice}: {error}") from error
    parts = parts._replace(augment=build_augmentation(config, parts.network))
    check_label(config)
    missing = [name for name in requires(parts.loss) if not hasattr(parts.sde, name)]
    if missing:
        raise ConfigError(
            f"config.loss needs {' and '.join(missing)} of the SDE, which {type(parts.sde).__name__} lacks: without a "
            f"kernel take transition_loss or sliced_loss, with PredictPathScore for config.parameterization"
        )
    return parts


def build_augmentation(config: ConfigDict, network) -> Augmentation | None:
    """config.augmentation where its probability is not 0. ConfigError unless the network is told of it, and always."""
    augment = build(config.augmentation, "config.augmentation") if "augmentation" in config else None
    if augment is None or not augment.probability:
        return None
    if len(config.shape) != 3:
        raise ConfigError(f"config.augmentation is for images [H, W, C], config.shape is {tuple(config.shape)}")
    if config.network.get("cond_dropout", 0):
        raise ConfigError("config.augmentation would leak: with config.network.cond_dropout it is not always told")
    try:
        jax.eval_shape(network.init, jax.random.key(0), *first_inputs(config), no_augmentation(config, 1))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.augmentation tells the network a vector, so config.network.cond_dim should be {DIM}: {error}"
        ) from error
    return augment


def no_augmentation(config: ConfigDict, n: int):
    """The condition of images as they are; of a network with classes, beside no class."""
    vector = jnp.zeros((n, DIM), jnp.float32)
    return (None, vector) if num_classes(config) else vector


def requires(loss) -> tuple[str, ...]:
    """What a loss, whose options a config may have bound, says that an SDE must have; likewise of reports, metrics."""
    return getattr(getattr(loss, "func", loss), "requires", ())


class Layout(NamedTuple):
    """Where arrays live: one axis of devices over which a batch is split, and parameters copied."""

    count: int
    split: NamedSharding
    copied: NamedSharding

    @property
    def devices(self) -> list[jax.Device]:
        return list(self.copied.mesh.devices.flat)

    def put(self, part: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch, split over the devices. Each of several processes gives its own part of it."""
        if jax.process_count() == 1:
            return jax.device_put(part, self.split)
        return jax.tree.map(partial(jax.make_array_from_process_local_data, self.split), part)

    def put_whole(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The same of a batch that every process has the whole of."""
        if jax.process_count() == 1:
            return jax.device_put(batch, self.split)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, self.split, x.__getitem__), batch)


def make_layout(devices: list | None = None, processes: bool = False) -> Layout:
    """All devices on one axis named "data", or those given, in the order of their processes.

    ConfigError where this is one of several processes, unless it may be, and where these have unlike numbers of them.
    """
    if jax.process_count() > 1 and not processes:
        raise ConfigError(f"this is one of {jax.process_count()} processes, which only training takes: start one alone")
    devices = jax.devices() if devices is None else devices
    if jax.process_count() > 1:
        devices = sorted(devices, key=lambda device: (device.process_index, device.id))
        counts = np.bincount([device.process_index for device in devices], minlength=jax.process_count())
        if len({*counts}) > 1:
            raise ConfigError(f"the processes need as many devices each, they have {', '.join(map(str, counts))}")
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    return Layout(len(devices), NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()))


def stream(config: ConfigDict, use: int) -> jax.Array:
    """The key of one use of the config's seed."""
    return jax.random.fold_in(jax.random.key(config.seed), use)


def new_state(config: ConfigDict, parts: Parts):
    """The training state at step 0, a function of the config."""
    cond = () if parts.augment is None else (no_augmentation(config, 1),)
    params = parts.network.init(stream(config, INIT), *first_inputs(config), *cond)
    return init_state(stream(config, TRAIN), params, parts.tx)


def first_inputs(config: ConfigDict) -> tuple[jax.Array, jax.Array]:
    """x and c_noise of one example, to make parameters with."""
    return jnp.zeros((1, *config.shape), jnp.float32), jnp.zeros(1, jnp.float32)


def abstract_state(config: ConfigDict, parts: Parts, layout: Layout):
    """Shapes, dtypes and placement of the training state, without computing it."""
    shapes = jax.eval_shape(partial(new_state, config, parts))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.copied), shapes)


def placed(config: ConfigDict, parts: Parts, layout: Layout):
    """A new state on all devices."""
    return jax.jit(partial(new_state, config, parts), out_shardings=layout.copied)()


def restored(
    config: ConfigDict,
    parts: Parts,
    layout: Layout,
    checkpoints: Checkpoints,
    step: int | None = None,
    only: tuple[str, ...] = (),
):
    """The checkpoint of that step, or the newest, on all devices; of the state the fields `only`, or all of it."""
    try:
        return checkpoints.restore(abstract_state(config, parts, layout), step, only)
    except FileNotFoundError as error:
        raise ConfigError(f"{error}: train first") from error
    except ValueError as error:  # damaged, or of another config or version
        raise ConfigError(str(error)) from error


def digest(params) -> str:
    """SHA-256 of the bytes of all leaves, in their order."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


@jax.jit
def all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def score_model(config: ConfigDict, parts: Parts, params) -> ScoreModel:
    return ScoreModel(
        sde=parts.sde,
        parameterization=parts.parameterization,
        network=parts.network,
        params=params,
        sampler=parts.sampler,
        likelihood=parts.likelihood,
        guidance=guidance(config),
        shape=tuple(config.shape),
        transform=parts.transform,
    )


def load_data(config: ConfigDict, layout: Layout) -> Dataset:
    """The data of config.data, checked. ConfigError where they are not there."""
    return check_data(config, build_data(config), layout)


def build_data(config: ConfigDict) -> Dataset:
    """The data of config.data; the log says whether held-out examples are also to train on."""
    try:
        return log_shared(build(config.data, "config.data"))
    except FileNotFoundError as error:
        raise ConfigError(f"config.data: {error}") from error


def log_shared(dataset: Dataset) -> Dataset:
    """The data again; a warning where held-out examples, by which a result is judged, are also to train on."""
    shared = shared_examples(dataset)
    if shared is None:
        log.warning("the data are read by index: whether held-out examples are also to train on has not been looked at")
    elif shared:
        log.warning("%d of %d held-out examples are also to train on", shared, len(dataset.heldout))
    return dataset


def check_data(config: ConfigDict, dataset: Dataset, layout: Layout) -> Dataset:
    """The data again, or ConfigError where data, config and devices do not go together."""
    shape = tuple(gather(dataset.train, [0])["x"].shape[1:])
    if shape != tuple(config.shape):
        raise ConfigError(f"config.shape is {tuple(config.shape)}, but the data are {shape}")
    for place, size in (("training", config.training.batch_size), ("eval", config.eval.batch_size)):
        if size < 1 or size % layout.count:
            raise ConfigError(f"config.{place}.batch_size={size} cannot be split over {layout.count} devices")
    check_labels(config, dataset)
    check_numbers(config)
    size, parts = config.training.batch_size, config.training.get("accumulate", 1)
    if parts < 1 or size % (parts * layout.count):
        raise ConfigError(f"config.training.accumulate={parts}: a batch of {size} on {layout.count} devices cannot be "
                          f"seen in so many equal parts")  # fmt: skip
    return dataset


def check_numbers(config: ConfigDict) -> None:
    """ConfigError for a number of config.training that could mean nothing."""
    training = config.training
    least = {name: 0 for name in ("log_every", "eval_every", "sample_every", "checkpoint_every", "steps_per_call")}
    for name, low in {"num_steps": 1, "snapshot_size": 1, **least}.items():
        if not low <= training[name] < 2**31:
            raise ConfigError(f"config.training.{name}={training[name]}: expected {low} or more, below 2^31")
    counts = {"seeds": config.eval.get("seeds", 1), "reproduce.seeds": config.eval.get("reproduce", {}).get("seeds", 1)}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"config.eval.{name}={value}: expected 1 or more")
    if config.eval.get("bpd", {}).get("count", 0) < 0:
        raise ConfigError(f"config.eval.bpd.count={config.eval.bpd.count}: expected 0, for all, or more")
    if not 0 <= training.ema < 1:
        raise ConfigError(f"config.training.ema={training.ema}: expected 0 or more, below 1")


def is_image(config: ConfigDict, parts: Parts) -> bool:
    """Events [H, W, C] whose transform knows how to make a picture of them."""
    return len(config.shape) == 3 and hasattr(parts.transform, "to_uint8")


def picture_scale(config: ConfigDict) -> int:
    """Small images are enlarged to about 32 pixels, so that they can be seen."""
    return max(1, 32 // config.shape[0])
