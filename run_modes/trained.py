"""A trained work directory: its experiment and model, with the EMA parameters of a checkpoint."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from config_lib.names import offer
from config_lib.spec import ConfigError, to_json
from io_lib import hub, workdir
from io_lib.checkpoint import Checkpoints
from run_modes.card import DEFAULT_GENERATOR, fingerprint, generator
from run_modes.changes import changes_between
from run_modes.conditions import with_saved_conditions
from run_modes.experiment import Experiment, make_experiment
from run_modes.guidance import made_by_guidance
from run_modes.labels import check_label, num_classes
from run_modes.state import digest, restore_state
from sde_lib import SDE, GaussianSDE, NoisyClassifier, ScoreModel

log = logging.getLogger(__name__)

# Sections that may differ from the work directory's config when a trained model is used.
CHANGEABLE = (
    *("config.sampling.", "config.eval.", "config.data.", "config.restore."),
    *("config.training.writers", "config.training.wandb_project"),
)
# Other sections on which samples depend, in addition to step, parameters, seed and sampler.
DECIDES = ("shape", "sde", "parameterization", "network", "transform", "cond")


class Trained(NamedTuple):
    """A work directory with a checkpoint: `params` are all EMA parameters of `step`, `model` has the network's.

    `class_counts` are the training examples per class, None if the checkpoint's card does not have them. They are those
    of the classifier that guides the samples, for a network without classes.
    """

    directory: Path
    experiment: Experiment
    model: ScoreModel
    params: Any
    step: int
    class_counts: tuple[int, ...] | None = None

    @property
    def config(self) -> ConfigDict:
        return self.experiment.config

    def guidance_made(self) -> dict[str, Any]:
        """What samples depend on through their guidance (`run_modes.guidance`)."""
        classifier = self.experiment.classifier
        return made_by_guidance(self.config, "" if classifier is None else digest(classifier.params))


def open_trained(
    directory: str | Path,
    config: ConfigDict | None = None,
    devices: list | None = None,
    step: int | None = None,
    guided: bool = True,
) -> Trained:
    """A work directory with the checkpoint of `step`, or the newest; if `guided`, with config.sampling.classifier.

    ConfigError if it is not a work directory, belongs to another config, or has no such checkpoint.
    """
    hub.require_local(directory)
    try:
        saved, directory = workdir.load_config(directory), Path(directory)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    config = saved if config is None else with_saved_conditions(config, saved)
    changed = [line for line in changes_between(saved, config) if not line.startswith(CHANGEABLE)]
    if changed:
        raise ConfigError(f"{directory} was trained with another config: {'; '.join(changed[:3])}")
    experiment = make_experiment(config, devices)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = restore_state(experiment, checkpoints, step, only=("step", "ema_params"))
        card = checkpoints.card(int(state.step))
    require_same_process(card, experiment.sde, directory)
    classes = card.get("data", {}).get("classes") if num_classes(config) else None
    counts = None if classes is None else tuple(classes)
    if guided and config.sampling.get("classifier", "") and experiment.objective.learns_score:
        classifier = guide_of(config, devices)
        require_fitting(classifier, experiment)
        experiment = experiment._replace(classifier=as_classifier(classifier))
        check_label(config, experiment.num_classes)
        counts = counts if num_classes(config) else classifier.class_counts
    model = experiment.score_model(experiment.objective.network_params(state.ema_params))
    return Trained(directory, experiment, model, state.ema_params, int(state.step), counts)


def open_classifier(directory: str | Path, devices: list | None = None) -> Trained:
    """The work directory of a classifier, with its newest checkpoint. ConfigError if it is not one."""
    found = open_trained(directory, devices=devices, guided=False)
    if found.experiment.objective.learns_score or not found.experiment.num_classes:
        raise ConfigError(
            f"{directory}: expected a run with config.objective NoisyClassification and config.network.num_classes, "
            f"such as that of configs/digits_classifier.py; got another"
        )
    return found


def guide_of(config: ConfigDict, devices: list | None) -> Trained:
    """The classifier that config.sampling.classifier names. ConfigError, naming that entry, if it is not one."""
    try:
        return open_classifier(hub.local(config.sampling.classifier), devices)
    except ConfigError as error:
        raise ConfigError(f"config.sampling.classifier: {error}") from error


def as_classifier(trained: Trained) -> NoisyClassifier:
    """The classifier of a run that `open_classifier` has opened."""
    model, sde = trained.model, cast(GaussianSDE, trained.model.sde)  # by NoisyClassification.requires
    return NoisyClassifier(sde=sde, parameterization=model.parameterization, params=model.params, network=model.network)


def require_fitting(classifier: Trained, experiment: Experiment) -> None:
    """ConfigError if a classifier cannot guide this model: other data, model space, process, or classes."""
    ours, theirs = experiment.config, classifier.config
    where = f"config.sampling.classifier={classifier.directory}"
    for name in ("shape", "transform"):
        if changed := changes_between(ConfigDict({name: theirs[name]}), ConfigDict({name: ours[name]})):
            raise ConfigError(f"{where}: the classifier was trained with another {name}: {'; '.join(changed[:3])}")
    then, now = fingerprint(classifier.experiment.sde), fingerprint(experiment.sde)
    if then.keys() != now.keys() or any(not np.allclose(then[name], now[name], rtol=1e-4, atol=1e-6) for name in now):
        raise ConfigError(
            f"{where}: the classifier was trained with another process: {type(classifier.experiment.sde).__name__} and "
            f"{type(experiment.sde).__name__} differ in alpha, sigma or the range of t"
        )
    if experiment.conditions is not None:
        names = ", ".join(experiment.conditions.names)
        raise ConfigError(f"{where}: a classifier guides networks without conditions but classes; got {names}")
    if (count := num_classes(ours)) not in (0, classifier.experiment.num_classes):
        raise ConfigError(
            f"{where}: expected a classifier of the network's {count} classes, got {classifier.experiment.num_classes}"
        )


def load_classifier(directory: str | Path, classes: Sequence[Callable] = ()) -> NoisyClassifier:
    """The classifier of a work directory, with the EMA parameters of its newest checkpoint, for `ByClassifier`.

    `directory`, `classes` and ConfigError as in `load`, and ConfigError if the run is not of a classifier.
    """
    for each in classes:
        offer(each)
    return as_classifier(open_classifier(hub.local(directory)))


def require_score(trained: Trained, what: str) -> None:
    """ConfigError if the run has no score, but is a classifier."""
    if not trained.experiment.objective.learns_score:
        raise ConfigError(
            f"{trained.directory} has no {what}: its network is a classifier, not a score. It guides the samples of "
            f"another run: --workdir=RUN --config.sampling.classifier={trained.directory}"
        )


def load(
    directory: str | Path,
    config: ConfigDict | None = None,
    step: int | None = None,
    classes: Sequence[Callable] = (),
) -> ScoreModel:
    """The model of a work directory, with the EMA parameters of the checkpoint of `step`, or of the newest.

    "hf:owner/name" and "hf:owner/name@revision" are runs on the Hugging Face Hub; their files are cached, and none of
    them is run. `config` replaces the directory's own; it may differ only in sampling, eval and data. ConfigError if it
    differs elsewhere, if there is no such checkpoint, or if it is not a work directory. `classes` are classes and
    functions of your own that the config names, if this process has not imported the file that defines them.
    """
    for each in classes:
        offer(each)
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]  # has no stub
        log.warning(
            "jax_enable_x64 is on, but the parameters of %s stay float32, and so do likelihoods and codes: "
            "load(…).astype(jnp.float64) computes in float64",
            directory,
        )
    trained = open_trained(hub.local(directory), config, step=step)
    require_score(trained, "score model")
    return trained.model


def require_same_process(card: dict[str, Any], sde: SDE, directory: Path) -> None:
    """ConfigError if the process computes other coefficients than in training: its class has changed since.

    Cards of earlier versions, and those of learned processes, have nothing to compare.
    """
    then, now = card.get("process"), fingerprint(sde)
    if not then:
        return
    for name in sorted(then.keys() & now.keys(), key=["t", "alpha", "sigma", "diffusion"].index):
        a, b = np.asarray(then[name]), np.asarray(now[name])
        wrong = np.abs(a - b) > 1e-4 * np.abs(a) + 1e-6 * np.max(np.abs(a))
        if np.any(wrong):
            k = int(np.argmax(wrong))
            raise ConfigError(
                f"{directory} was trained with another process: {name} of {type(sde).__name__} is {b[k]:.6g} at t = "
                f"{now['t'][k]:g}, and was {a[k]:.6g} in training. Has the class been changed?"
            )


def made_with(trained: Trained, seed: int, used: dict) -> dict:
    """Everything that results of the model depend on: parameters, step, seed, and the `used` part of the config."""
    sections = [name for name in DECIDES if name != "cond" or trained.config.get("cond")]
    described = {**{name: trained.config[name] for name in sections}, **used}
    return json.loads(to_json(ConfigDict(described))) | {
        "step": trained.step,
        "seed": seed,
        "parameters": digest(trained.model.params),
        **({} if generator() == DEFAULT_GENERATOR else {"generator": generator()}),
    }


def require_finite(rows: np.ndarray, first: int, what: str, why: str) -> None:
    """FloatingPointError, naming the first such row, if a row is not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
    if len(bad):
        raise FloatingPointError(
            f"{len(bad)} of {what}s {first} to {first + len(rows) - 1} are not finite, {what} {first + bad[0]} the "
            f"first: {why}; earlier batches are cached"
        )
