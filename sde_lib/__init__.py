"""The mathematics: forward SDEs, parameterizations, losses, solvers, sampling, likelihoods, training steps."""

from sde_lib.check import SDECheckError as SDECheckError
from sde_lib.check import SolverCheckError as SolverCheckError
from sde_lib.check import check_sde as check_sde
from sde_lib.check import check_solver as check_solver
from sde_lib.check.suggest import suggest as suggest
from sde_lib.exact import FullMixture as FullMixture
from sde_lib.exact import GaussianMixture as GaussianMixture
from sde_lib.exact import gaussian as gaussian
from sde_lib.guidance import classifier_free as classifier_free
from sde_lib.guidance import classifier_guided as classifier_guided
from sde_lib.guidance import guided_by_each as guided_by_each
from sde_lib.guidance import in_interval as in_interval
from sde_lib.guidance.values import ByClassifier as ByClassifier
from sde_lib.guidance.values import ByEach as ByEach
from sde_lib.guidance.values import ClassifierFree as ClassifierFree
from sde_lib.guidance.values import Guidance as Guidance
from sde_lib.guidance.values import InInterval as InInterval
from sde_lib.guidance.values import Unconditional as Unconditional
from sde_lib.likelihood.bits import Elbo as Elbo
from sde_lib.likelihood.bits import bits_per_dim as bits_per_dim
from sde_lib.likelihood.bits import elbo as elbo
from sde_lib.likelihood.bits import nats_to_bits as nats_to_bits
from sde_lib.likelihood.dequantization import Dequantizer as Dequantizer
from sde_lib.likelihood.dequantization import fit_dequantizer as fit_dequantizer
from sde_lib.likelihood.divergence import Exact as Exact
from sde_lib.likelihood.divergence import Hutchinson as Hutchinson
from sde_lib.likelihood.divergence import HutchPlusPlus as HutchPlusPlus
from sde_lib.likelihood.flow import Likelihood as Likelihood
from sde_lib.likelihood.flow import LogProb as LogProb
from sde_lib.likelihood.flow import slerp as slerp
from sde_lib.losses import EDMWeight as EDMWeight
from sde_lib.losses import GridTime as GridTime
from sde_lib.losses import LikelihoodWeight as LikelihoodWeight
from sde_lib.losses import LogNormalTime as LogNormalTime
from sde_lib.losses import PowerTime as PowerTime
from sde_lib.losses import SigmaSquared as SigmaSquared
from sde_lib.losses import StratifiedTime as StratifiedTime
from sde_lib.losses import UniformTime as UniformTime
from sde_lib.losses import dequantize as dequantize
from sde_lib.losses import dsm_loss as dsm_loss
from sde_lib.losses import half_sum as half_sum
from sde_lib.losses import mean as mean
from sde_lib.noise import fold as fold
from sde_lib.noise import normal as normal
from sde_lib.noise import sample_keys as sample_keys
from sde_lib.parameterization import EDMPreconditioning as EDMPreconditioning
from sde_lib.parameterization import LogSigma as LogSigma
from sde_lib.parameterization import Parameterization as Parameterization
from sde_lib.parameterization import PlainScore as PlainScore
from sde_lib.parameterization import PredictNoise as PredictNoise
from sde_lib.parameterization import PredictScore as PredictScore
from sde_lib.parameterization import PredictV as PredictV
from sde_lib.parameterization import PredictX0 as PredictX0
from sde_lib.parameterization import ScaledTime as ScaledTime
from sde_lib.parameterization import ScoreFn as ScoreFn
from sde_lib.parameterization import eps_hat as eps_hat
from sde_lib.parameterization import make_score_fn as make_score_fn
from sde_lib.parameterization import v_hat as v_hat
from sde_lib.parameterization import x0_hat as x0_hat
from sde_lib.processes.closed_form import EDM as EDM
from sde_lib.processes.closed_form import VE as VE
from sde_lib.processes.closed_form import VP as VP
from sde_lib.processes.closed_form import CosineVP as CosineVP
from sde_lib.processes.closed_form import DiagonalVP as DiagonalVP
from sde_lib.processes.closed_form import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from sde_lib.processes.closed_form import RectifiedFlow as RectifiedFlow
from sde_lib.processes.closed_form import SubVP as SubVP
from sde_lib.processes.coefficients import LinearSDE as LinearSDE
from sde_lib.processes.paths import LogPathNoise as LogPathNoise
from sde_lib.processes.paths import NonlinearSDE as NonlinearSDE
from sde_lib.processes.paths import PredictPathScore as PredictPathScore
from sde_lib.processes.paths import fit_prior as fit_prior
from sde_lib.processes.paths import simulate as simulate
from sde_lib.processes.paths import simulate_path as simulate_path
from sde_lib.processes.schedules import DiscreteVE as DiscreteVE
from sde_lib.processes.schedules import DiscreteVP as DiscreteVP
from sde_lib.processes.schedules import LearnedLogSNR as LearnedLogSNR
from sde_lib.processes.schedules import LogSNRSDE as LogSNRSDE
from sde_lib.processes.schedules import TabulatedLogSNR as TabulatedLogSNR
from sde_lib.processes.schedules import discrete_ve as discrete_ve
from sde_lib.processes.schedules import discrete_vp as discrete_vp
from sde_lib.processes.transfer import transfer_score as transfer_score
from sde_lib.processes.transfer import within as within
from sde_lib.processes.velocity import PredictVelocity as PredictVelocity
from sde_lib.sampling import Grid as Grid
from sde_lib.sampling import LogSNRGrid as LogSNRGrid
from sde_lib.sampling import PowerGrid as PowerGrid
from sde_lib.sampling import Sampler as Sampler
from sde_lib.sampling import UniformGrid as UniformGrid
from sde_lib.sampling import as_is as as_is
from sde_lib.sampling import last_mean as last_mean
from sde_lib.sampling import sample as sample
from sde_lib.sampling import sample_path as sample_path
from sde_lib.sampling import tweedie as tweedie
from sde_lib.score_model import ScoreModel as ScoreModel
from sde_lib.sde import SDE as SDE
from sde_lib.sde import GaussianSDE as GaussianSDE
from sde_lib.sde import expand as expand
from sde_lib.solvers.adaptive import AdaptiveSDE as AdaptiveSDE
from sde_lib.solvers.adaptive import ProbabilityFlowODE as ProbabilityFlowODE
from sde_lib.solvers.adaptive import brownian_path as brownian_path
from sde_lib.solvers.adaptive import redrawn as redrawn
from sde_lib.solvers.edm_grid import EDMGrid as EDMGrid
from sde_lib.solvers.integrate import Adaptive as Adaptive
from sde_lib.solvers.integrate import Fixed as Fixed
from sde_lib.solvers.optimized_grid import TabulatedGrid as TabulatedGrid
from sde_lib.solvers.optimized_grid import optimized_grid as optimized_grid
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

# Names of version 0.1, still importable.
CoefficientSDE = LinearSDE
PathSDE = NonlinearSDE
StraightLine = RectifiedFlow
Karras = EDMPreconditioning
KarrasGrid = EDMGrid
KarrasWeight = EDMWeight
Dequantiser = Dequantizer
fit_dequantiser = fit_dequantizer
dequantise = dequantize
optimised_grid = optimized_grid
