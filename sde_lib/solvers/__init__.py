"""Solvers: each is one step of the reverse process (`base`)."""

from sde_lib.solvers.base import Solver as Solver
from sde_lib.solvers.base import SolverState as SolverState
from sde_lib.solvers.churn import EDMHeun as EDMHeun
from sde_lib.solvers.exponential import SEEDS2 as SEEDS2
from sde_lib.solvers.exponential import DPMSolver as DPMSolver
from sde_lib.solvers.learned_variance import LearnedVarianceAncestral as LearnedVarianceAncestral
from sde_lib.solvers.multistep import DEIS as DEIS
from sde_lib.solvers.multistep import DPMSolverPlusPlus as DPMSolverPlusPlus
from sde_lib.solvers.multistep import UniPC as UniPC
from sde_lib.solvers.ode import Euler as Euler
from sde_lib.solvers.ode import Heun as Heun
from sde_lib.solvers.predictor_corrector import AnnealedLangevin as AnnealedLangevin
from sde_lib.solvers.predictor_corrector import Corrector as Corrector
from sde_lib.solvers.predictor_corrector import Langevin as Langevin
from sde_lib.solvers.predictor_corrector import NoCorrector as NoCorrector
from sde_lib.solvers.predictor_corrector import PredictorCorrector as PredictorCorrector
from sde_lib.solvers.predictors import DDIM as DDIM
from sde_lib.solvers.predictors import Ancestral as Ancestral
from sde_lib.solvers.predictors import EulerMaruyama as EulerMaruyama
from sde_lib.solvers.predictors import NoPredictor as NoPredictor
from sde_lib.solvers.predictors import ReverseDiffusion as ReverseDiffusion
