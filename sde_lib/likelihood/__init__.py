"""Likelihoods: log p(x) by the probability-flow ODE, latent codes, bits per dimension, the ELBO."""

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
