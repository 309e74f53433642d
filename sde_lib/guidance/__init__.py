"""Guided scores: by a classifier, by two scores, by a weight for each condition."""

from sde_lib.guidance.scores import classifier_free as classifier_free
from sde_lib.guidance.scores import classifier_guided as classifier_guided
from sde_lib.guidance.scores import guided_by_each as guided_by_each
from sde_lib.guidance.scores import in_interval as in_interval
