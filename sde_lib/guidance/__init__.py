"""Guided scores: by a classifier, by two scores, by a weight for each condition; as functions, and as values."""

from sde_lib.guidance.scores import classifier_free as classifier_free
from sde_lib.guidance.scores import classifier_guided as classifier_guided
from sde_lib.guidance.scores import guided_by_each as guided_by_each
from sde_lib.guidance.scores import in_interval as in_interval
from sde_lib.guidance.values import ByClassifier as ByClassifier
from sde_lib.guidance.values import ByEach as ByEach
from sde_lib.guidance.values import ClassifierFree as ClassifierFree
from sde_lib.guidance.values import Guidance as Guidance
from sde_lib.guidance.values import InInterval as InInterval
from sde_lib.guidance.values import Unconditional as Unconditional
from sde_lib.guidance.values import as_guidance as as_guidance
from sde_lib.guidance.values import labels_of as labels_of
