"""Markov chains on tokens, in continuous time: processes, bounds, samplers, and the model of a trained network."""

from sde_lib.discrete.bounds import MaskedDiffusion as MaskedDiffusion
from sde_lib.discrete.bounds import ScoreEntropy as ScoreEntropy
from sde_lib.discrete.bounds import any_order_elbo as any_order_elbo
from sde_lib.discrete.bounds import masked_entropy as masked_entropy
from sde_lib.discrete.bounds import score_entropy as score_entropy
from sde_lib.discrete.bounds import token_elbo as token_elbo
from sde_lib.discrete.prediction import PredictRatios as PredictRatios
from sde_lib.discrete.prediction import PredictTokens as PredictTokens
from sde_lib.discrete.prediction import Reverse as Reverse
from sde_lib.discrete.prediction import make_reverse as make_reverse
from sde_lib.discrete.processes import MaskedProcess as MaskedProcess
from sde_lib.discrete.processes import TokenProcess as TokenProcess
from sde_lib.discrete.processes import UniformProcess as UniformProcess
from sde_lib.discrete.processes import cosine as cosine
from sde_lib.discrete.processes import linear as linear
from sde_lib.discrete.solvers import AncestralTokens as AncestralTokens
from sde_lib.discrete.solvers import AnyOrder as AnyOrder
from sde_lib.discrete.solvers import CorrectedTokens as CorrectedTokens
from sde_lib.discrete.solvers import EulerTokens as EulerTokens
from sde_lib.discrete.solvers import Gibbs as Gibbs
from sde_lib.discrete.solvers import TokenSampler as TokenSampler
from sde_lib.discrete.solvers import TokenSolver as TokenSolver
from sde_lib.discrete.solvers import cosine_times as cosine_times
from sde_lib.discrete.solvers import uniform_times as uniform_times
