"""The guidance of samples, by config.sampling.

    guidance, guidance_each              the scale of classifier-free guidance, or that of each condition
    classifier, classifier_scale         another work directory, whose classifier guides samples to their class; the
                                         scale w of its gradient (`sde_lib.guidance.scores`, (1))
    guidance_interval                    (low, high): the noise levels σ/α at which any guidance applies; (): all

A classifier guides the score of a network without classes. The classes of samples are then the classifier's. It also
guides a network with the same classes: its conditional score, or that of classifier-free guidance.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from run_modes.labels import guidance, num_classes
from sde_lib import ByClassifier, GaussianSDE, Guidance, InInterval, NoisyClassifier, Unconditional
from sde_lib.guidance import as_guidance
from sde_lib.sde import SDE, has_kernel


def guidance_of(config: ConfigDict, sde: SDE, classifier: NoisyClassifier | None = None) -> Any:
    """The guidance of a ScoreModel: None, a number, a dict or a Guidance. ConfigError for a wrong number."""
    found, interval = guidance(config), interval_of(config)
    if classifier is not None:
        score = as_guidance(found) if num_classes(config) else Unconditional()
        try:
            found = ByClassifier(classifier=classifier, scale=scale_of(config), score=score)
        except ValueError as error:
            raise ConfigError(f"config.sampling.classifier_scale: {error}") from error
    if not interval or found is None:
        return found
    if not has_kernel(sde):
        raise ConfigError(
            f"config.sampling.guidance_interval requires alpha and sigma of the SDE, which {type(sde).__name__} lacks"
        )
    try:
        low, high = map(float, interval)
        return InInterval(guidance=cast(Guidance, as_guidance(found)), sde=cast(GaussianSDE, sde), low=low, high=high)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.sampling.guidance_interval={interval}: expected () or (low, high), with 0 <= low <= high, in σ/α"
        ) from error


def made_by_guidance(config: ConfigDict, classifier: str = "") -> dict[str, Any]:
    """What samples depend on through their guidance, for their cache's key; {} without guidance.

    `classifier` is the digest of the classifier's parameters, if there is one.
    """
    scales, interval = guidance(config), interval_of(config)
    made: dict[str, Any] = {} if scales is None else {"guidance": scales}
    if classifier:
        made |= {"classifier": classifier, "classifier_scale": scale_of(config)}
    return made | ({"guidance_interval": [float(level) for level in interval]} if made and interval else {})


def text_of_guidance(made: dict[str, Any]) -> str:
    """The guidance of `made_by_guidance` in words, for a report: ", guidance 2"; "" without guidance."""
    scales = made.get("guidance", {})
    scales = scales if isinstance(scales, dict) else {"": scales}
    parts = [f", guidance {name}{' ' if name else ''}{scale:g}" for name, scale in scales.items()]
    if "classifier" in made:
        parts.append(f", classifier guidance {made['classifier_scale']:g}")
    if "guidance_interval" in made:
        parts.append(" at σ/α from {:g} to {:g}".format(*made["guidance_interval"]))
    return "".join(parts)


def interval_of(config: ConfigDict) -> tuple:
    """config.sampling.guidance_interval, which earlier configs lack."""
    return tuple(config.sampling.get("guidance_interval", ()))


def scale_of(config: ConfigDict) -> float:
    """config.sampling.classifier_scale, which earlier configs lack."""
    return config.sampling.get("classifier_scale", 1.0)
