"""Exact scores and posteriors of mixtures of normals: the ground truth of tests, tutorials and benchmarks."""

from sde_lib.exact.diagonal import GaussianMixture as GaussianMixture
from sde_lib.exact.diagonal import gaussian as gaussian
from sde_lib.exact.full import FullMixture as FullMixture
