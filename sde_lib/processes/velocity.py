"""Networks that predict the velocity of the path from noise to data, as parameterizations of the score.

Along x = α x_0 + σ ε the velocity is u = α' x_0 + σ' ε, with derivatives in t. Elimination of x_0 gives

    ε = (α u − α' x)/(α σ' − α' σ),   score = −ε/σ.                                                    (1)

For `RectifiedFlow` the denominator is 1, α' = −1, and score = −((1 − t) u + x)/t. Nothing is divided by α.

Lipman et al. 2023, arXiv:2210.02747, section 4.1; Ma et al. 2024 (SiT), arXiv:2401.08740, eq. 9, whose time runs from
noise to data, so that their velocity is −u at their time 1 − t.
"""

from sde_lib.node import Scalar, number
from sde_lib.parameterization import Coefficients, NoiseLabel, Parameterization, ScaledTime
from sde_lib.sde import GaussianSDE, Time, time_derivative


class PredictVelocity(Parameterization[GaussianSDE]):
    """F = sign · u, the velocity (1): score = (α' x − α sign F)/(σ (α σ' − α' σ)).

    sign = 1 is the velocity in t, dx/dt; sign = −1 points from noise to data, as in SiT.
    """

    c_noise: NoiseLabel[GaussianSDE] = ScaledTime()
    sign: Scalar = number(1.0, at_least=-1, at_most=1)

    def __call__(self, sde: GaussianSDE, t: Time) -> Coefficients:
        (alpha, dalpha), (sigma, dsigma) = time_derivative(sde.alpha, t), time_derivative(sde.sigma, t)
        total = sigma * (alpha * dsigma - dalpha * sigma)
        return Coefficients(dalpha / total, -alpha * self.sign / total, 1.0, self.c_noise(sde, t))

    def denoiser(self, sde: GaussianSDE, t: Time):
        (alpha, dalpha), (sigma, dsigma) = time_derivative(sde.alpha, t), time_derivative(sde.sigma, t)
        total = alpha * dsigma - dalpha * sigma
        return dsigma / total, -sigma * self.sign / total
