"""Posterior sampling: observations y = A(x) + noise, and the scores of p(x | y) from a score of p(x)."""

from sde_lib.exact import FullMixture as FullMixture
from sde_lib.posterior.observation import Observation as Observation
from sde_lib.posterior.observation import adjoint as adjoint
from sde_lib.posterior.operators import Blur as Blur
from sde_lib.posterior.operators import BoxDownsample as BoxDownsample
from sde_lib.posterior.operators import ColorMix as ColorMix
from sde_lib.posterior.operators import Decimate as Decimate
from sde_lib.posterior.operators import FourierMask as FourierMask
from sde_lib.posterior.operators import Mask as Mask
from sde_lib.posterior.operators import Project as Project
from sde_lib.posterior.operators import Radon as Radon
from sde_lib.posterior.operators import gaussian_blur as gaussian_blur
from sde_lib.posterior.operators import parallel_beam as parallel_beam
from sde_lib.posterior.replacement import Observed as Observed
from sde_lib.posterior.replacement import ObservedCorrector as ObservedCorrector
from sde_lib.posterior.replacement import Replacement as Replacement
from sde_lib.posterior.replacement import observed as observed
from sde_lib.posterior.scores import DPS as DPS
from sde_lib.posterior.scores import DTMPD as DTMPD
from sde_lib.posterior.scores import JFPS as JFPS
from sde_lib.posterior.scores import MMPS as MMPS
from sde_lib.posterior.scores import DPSGaussian as DPSGaussian
from sde_lib.posterior.scores import PiGDM as PiGDM
from sde_lib.posterior.scores import posterior_score as posterior_score
