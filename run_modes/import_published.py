"""--mode=import: converts a checkpoint of other projects into a work directory.

    EDM, EDM2, diffusers, ADM, DiT, SiT, score_sde    ── published_lib.formats.describe ──► network, process, leaves

    flax    step   optimizer {target, state {step, param_states {… {grad_ema, grad_sq_ema}}}}   params_ema   lr …
    torch   step   model          optimizer {state {i: {step, exp_avg, exp_avg_sq}}}            ema {shadow_params …}
    others         model or ema                                                                 ema
                     ↓                        ↓                                                      ↓
    ours    step   params         opt_state (count, mu, nu of optax's Adam)                     ema_params

`published_lib` reads the formats, runs nothing of what is in them, and matches their leaves with ours. What a file
states about itself becomes the config. What it does not state must be in the config that is given: for score_sde all,
for ADM heads and schedule. The learning rate, decay rates and random key of a file are ignored.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict, config_dict

from config_lib.command_line import shipped
from config_lib.names import resolve
from config_lib.spec import ConfigError, bind, from_json, spec, to_json
from io_lib import hub, workdir
from io_lib.checkpoint import Checkpoints
from io_lib.metrics import MetricsLog
from published_lib.description import Description, Part
from published_lib.diffusers import weight_files
from published_lib.formats import describe
from published_lib.score_sde import Published, read_published
from published_lib.score_sde_names import filled, parameter_shapes
from run_modes.card import card_of, signed
from run_modes.experiment import Experiment, make_experiment
from run_modes.paths import require_config
from run_modes.state import TRAIN, all_finite, key_for, with_objective
from sde_lib import TrainState

SECTIONS = (
    *("shape", "transform", "sde", "parameterization", "network", "objective", "loss", "time_distribution"),
    *("optimizer", "training", "sampling", "eval"),
)
"""What the config of any run has."""


def import_checkpoint(config: ConfigDict | None, checkpoint: str | Path, directory: str | Path) -> int:
    """Converts a published checkpoint into a work directory of the config, at the file's step; returns the step.

    `checkpoint` is a file, a folder of diffusers, or hf:OWNER/NAME. What it states about itself replaces that part of
    the config; without a config, the rest is `configs.base`. ConfigError, before anything is written, for a file that
    cannot be read, that does not fit config.network, or leaves something open that the config lacks; for parameters
    that are not finite, and for a directory that has checkpoints or belongs to another config.
    """
    if config is not None:
        require_config(config)
    checkpoint = local_file(checkpoint)
    description = described(checkpoint)
    if config is None:
        config = config_of(checkpoint, description)
    elif description is not None:
        config = with_description(config, description)
    return import_as(config, checkpoint, directory, description)


def config_of(checkpoint: str | Path, description: Description | None = None) -> ConfigDict:
    """The config that a file states, on top of `configs.base`; what it leaves open is None there.

    ConfigError for a file that states none: one of score_sde."""
    checkpoint = local_file(checkpoint)
    description = description or described(checkpoint)
    if description is None:
        raise ConfigError(
            f"--config=FILE is required for --mode=import of {checkpoint}, which does not state its network; the "
            f"published experiments of score_sde are --config=configs/score_sde.py:NAME"
        )
    if description.config:
        return exported_config(description.config, checkpoint)
    if description.requires_config:
        raise ConfigError(f"--config=FILE is required: {checkpoint} does not state {description.requires_config}")
    return with_description(shipped("base").base(), description)


def exported_config(text: str, checkpoint: str | Path) -> ConfigDict:
    """The config in the header of a file of --mode=export. ConfigError if it is not one."""
    try:
        config = from_json(text)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{checkpoint}: its config cannot be read: {' '.join(str(error).split())}") from error
    if missing := [name for name in SECTIONS if name not in config]:
        raise ConfigError(f"{checkpoint}: its config lacks {', '.join(missing[:4])}")
    return config


def with_description(config: ConfigDict, description: Description) -> ConfigDict:
    """A copy of the config with what the file states: a part of another class is replaced, one of its own changed."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for key, value in description.sections.items():
            *sections, last = key.split(".")
            section = config
            for name in sections:
                section = section[name]
            with section.unlocked():
                made = section_of(value, section.get(last))
                if last in section:
                    del section[last]  # a section of another class of ConfigDict cannot replace it
                section[last] = made
    return config


def section_of(value: Any, old: Any = None) -> Any:
    """The section of a part, on top of an old section of the same class; other values as they are."""
    if not isinstance(value, Part):
        return value
    made = bind if value.bound else spec
    target = resolve(value.target, "published_lib")
    options = {name: section_of(option) for name, option in value.options.items()}
    section = made(target, **{name: option for name, option in options.items() if option is not None})
    name = section["bind" if value.bound else "call"]
    if isinstance(old, ConfigDict) and name in (old.get("call"), old.get("bind")):
        section = ConfigDict({**section, **{k: v for k, v in old.items() if k not in options}})
    for option in (name for name, given in options.items() if given is None):
        if section.get(option) is None or not (isinstance(old, ConfigDict) and option in old):
            section[option] = config_dict.placeholder(int)
    return section


def local_file(checkpoint: str | Path) -> str | Path:
    """The file or folder; for hf:OWNER/NAME its download, in the cache of huggingface_hub."""
    return hub.download_published(checkpoint) if hub.is_remote(checkpoint) else checkpoint


def described(checkpoint: str | Path) -> Description | None:
    """What the file states about itself; None for the formats of score_sde. ConfigError if it cannot be read."""
    try:
        return describe(checkpoint)
    except FileNotFoundError as error:
        raise ConfigError(f"--checkpoint={checkpoint}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint: {error}") from error


def import_as(
    config: ConfigDict, checkpoint: str | Path, directory: str | Path, description: Description | None = None
) -> int:
    """As `import_checkpoint`, for a config that has all that the file states."""
    checkpoint = local_file(checkpoint)
    description = description or described(checkpoint)
    if description is not None:
        require_complete(config, description, checkpoint)
        print(f"{checkpoint}: {description.project}. License of the weights: {description.license}.")
    experiment = make_experiment(config)
    shapes = shapes_of(experiment, checkpoint)
    published = read(checkpoint, config, shapes, description)
    if not all_finite((published.params, published.ema_params)):
        raise ConfigError(f"--checkpoint: {checkpoint}: the parameters are not finite")
    published = with_objective_parameters(experiment, published)
    opt_state, resumed = optimizer_state(experiment.tx, published)
    state = TrainState(
        step=jnp.asarray(published.step, jnp.int32),
        params=published.params,
        ema_params=published.ema_params,
        opt_state=opt_state,
        key=key_for(config, TRAIN),
    )
    directory = workdir.claim(directory, to_json(config))
    training = config.training
    with Checkpoints(directory / "checkpoints", training.keep_newest, training.keep_every or None) as checkpoints:
        if checkpoints.steps():
            raise ConfigError(
                f"{directory} has checkpoints already, of steps {checkpoints.steps()}: choose another --workdir"
            )
        with MetricsLog(directory) as log:  # a line without metrics marks the first step
            log.rewind(published.step - 1)
            log.write(published.step)
        card = card_of(config, {"source": imported_from(checkpoint)}, sde=experiment.sde)
        checkpoints.save(published.step, jax.device_put(state, jax.devices()[0]), signed(card, state))
    if description is not None:
        print("\n".join(taken(config, description)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    print(f"{directory}: step {published.step}, {count:,} parameters and their EMA, from {checkpoint}")
    print(resumed)
    return published.step


def read(checkpoint: str | Path, config: ConfigDict, shapes: dict, description: Description | None = None) -> Published:
    """The parameters of a file, for a network with these shapes. ConfigError if they do not fit."""
    try:
        if description is None:
            return read_published(checkpoint, shapes)
        network = dict(config.network.items())
        ema_params = filled(description.leaves(network), shapes)
        params = ema_params if description.raw is None else filled(description.raw(network), shapes)
        return Published(description.step, params, ema_params, None)
    except FileNotFoundError as error:
        raise ConfigError(f"--checkpoint={checkpoint}: there is no such file") from error
    except (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(f"--checkpoint: {checkpoint}: its arrays are not those of its network: {error!r}") from error
    except (OSError, ValueError) as error:
        where = "" if description is None else f"{checkpoint}: "
        raise ConfigError(f"--checkpoint: {where}{error}") from error


def shapes_of(experiment: Experiment, checkpoint: str | Path) -> dict:
    """The shapes of the network's parameters. ConfigError if the options do not make a network."""
    try:
        return parameter_shapes(experiment.network, experiment.shape)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--checkpoint: {checkpoint}: config.network cannot be built: {reason}") from error


def require_complete(config: ConfigDict, description: Description, checkpoint: str | Path) -> None:
    """ConfigError, naming it, for something that the file leaves open and the config lacks."""
    for key, advice in description.missing.items():
        *sections, last = key.split(".")
        section = functools.reduce(lambda section, name: section[name], sections, config)
        if section.get(last) is None:
            raise ConfigError(f"--checkpoint: {checkpoint} does not state {key}: {advice}")


def taken(config: ConfigDict, description: Description) -> list[str]:
    """The lines that say what the file stated, and what was taken from the config."""
    lines = [f"  from the file: {key} = {_shown(value)}" for key, value in description.sections.items()]
    others = [
        key for key in ("network", "sde", "parameterization", "shape", "transform") if key not in description.sections
    ]
    lines += [f"  from the config: {key} = {_shown(config[key])}" for key in (*others, *description.missing)]
    return [*lines, *(f"  {remark}" for remark in description.remarks)]


def _shown(value: Any) -> str:
    if isinstance(value, ConfigDict) and ("call" in value or "bind" in value):
        value = Part(value.get("call", value.get("bind")), dict(value.items()))
    if not isinstance(value, Part):
        return str(value)
    options = ", ".join(f"{k}={_shown(v)}" for k, v in value.options.items() if k not in ("call", "bind"))
    return f"{value.target.split(':')[1]}({options})"


def with_objective_parameters(experiment: Experiment, published: Published) -> Published:
    """With the parameters that config.objective adds to the network's, if any: the file's moments lack those."""
    params, ema_params = (with_objective(experiment, tree) for tree in (published.params, published.ema_params))
    if jax.tree.structure(params) == jax.tree.structure(published.params):
        return published
    return published._replace(params=params, ema_params=ema_params, moments=None)


def imported_from(checkpoint: str | Path) -> str:
    """The source in the card of an import: the file's name and SHA-256."""
    checkpoint = Path(checkpoint)
    if checkpoint.is_dir():
        return "imported from " + ", ".join(imported_from(file).split("from ")[1] for file in weight_files(checkpoint))
    with open(checkpoint, "rb") as file:
        return f"imported from {Path(checkpoint).name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def optimizer_state(tx: optax.GradientTransformation, published: Published) -> tuple[Any, str]:
    """The state of `tx`, with the file's moments if both are Adam's, else a new one; and a sentence that says which."""
    state = jax.jit(tx.init)(published.params)
    again = "the optimizer state is new, and its learning-rate schedule starts again"
    if published.moments is None:
        return state, f"The file has no moments of Adam: {again}."
    places = [optax.tree.get_all_with_path(state, name) for name in ("mu", "nu", "count")]
    if [len(found) for found in places[:2]] != [1, 1] or not places[2]:
        return state, f"config.optimizer does not have the moments of exactly one Adam: {again}."
    count, mu, nu = published.moments
    filled = optax.tree.set(state, mu=mu, nu=nu, count=jnp.asarray(count, jnp.int32))
    return filled, f"Adam resumes with its moments after {count} steps."
