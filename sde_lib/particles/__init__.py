"""Particles: samplers that are exact as particles, or inner steps, grow: twisted SMC, Feynman–Kac correctors, DAPS."""

from sde_lib.particles.daps import DAPS as DAPS
from sde_lib.particles.feynman_kac import Composed as Composed
from sde_lib.particles.feynman_kac import FeynmanKac as FeynmanKac
from sde_lib.particles.resampling import effective_sample_size as effective_sample_size
from sde_lib.particles.resampling import log_mean_weight as log_mean_weight
from sde_lib.particles.resampling import systematic as systematic
from sde_lib.particles.smc import Particles as Particles
from sde_lib.particles.transition import GaussianStep as GaussianStep
from sde_lib.particles.transition import transition as transition
from sde_lib.particles.twisted import TwistedSMC as TwistedSMC
