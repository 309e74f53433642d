"""Training: objectives, losses on simulated paths, the state, the optimizer, and the step."""

from sde_lib.training.augmentation import Augmentation as Augmentation
from sde_lib.training.classification import NoisyClassification as NoisyClassification
from sde_lib.training.classification import NoisyClassifier as NoisyClassifier
from sde_lib.training.likelihood_weighting import ImportanceLikelihoodWeight as ImportanceLikelihoodWeight
from sde_lib.training.likelihood_weighting import LogSNRTime as LogSNRTime
from sde_lib.training.objective import AppliedNetwork as AppliedNetwork
from sde_lib.training.objective import Objective as Objective
from sde_lib.training.objective import ScoreMatching as ScoreMatching
from sde_lib.training.optimizer import adam as adam
from sde_lib.training.path_losses import sliced_loss as sliced_loss
from sde_lib.training.path_losses import transition_loss as transition_loss
from sde_lib.training.state import TrainState as TrainState
from sde_lib.training.state import frozen_state as frozen_state
from sde_lib.training.state import init_state as init_state
from sde_lib.training.step import make_eval_step as make_eval_step
from sde_lib.training.step import make_train_step as make_train_step
from sde_lib.training.step import scan_steps as scan_steps
