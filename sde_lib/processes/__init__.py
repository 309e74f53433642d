"""Forward processes: in closed form, by tables, by coefficients, by simulated paths; transfer of scores."""

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
