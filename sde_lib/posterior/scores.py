"""Scores of posteriors: functions from a score of p(x) to a score of p(x | y), for any solver and for likelihoods.

With x_t = α x_0 + σ ε and y = A x_0 + σ_y n, Bayes' rule at time t adds ∇log p_t(y | x) to the score s. Let

    x̂ = (x + σ² s)/α = E[x_0 | x_t = x],   J = ∂x̂/∂x,   V = Cov[x_0 | x_t = x] = J (σ²/α)              (1)

(Tweedie's formula and its second order). If p(x_0 | x_t) were N(x̂, V̂) for some V̂, the added term would be

    g = Jᵀ Aᵀ (A V̂ Aᵀ + σ_y² I)⁻¹ (y − A x̂),   Jᵀ = (α/σ²) V,                                          (2)

with V̂ constant in x. V w is the product J (σ²/α w) in forward mode: in a sampler's loop on CPUs that is ten times
faster than Jᵀ. By (1) it is symmetric; a network's is not. With V̂ = V throughout, the estimate of x_0 given y,
x̂ + (σ²/α) g, agrees with y as (2) says. The methods differ in V̂ and J:

    method         V̂                                   J            exact for
    MMPS           V                                    ∂x̂/∂x       every Gaussian prior, every t, every linear A
    PiGDM          r² I, r² = σ² s²/(σ² + α² s²)        ∂x̂/∂x       the prior N(m, s² I)
    DTMPD          diag(V 1), the sums of rows of V     ∂x̂/∂x       Gaussian priors of independent coordinates
    JFPS           (C⁻¹ + (α²/σ²) I)⁻¹                  V̂ (α/σ²)    the prior N(m, C)
    DPSGaussian    0                                    ∂x̂/∂x       nothing: it ignores what x_t leaves open
    DPS            g = −ζ ∇_x ‖y − A x̂‖, or of its square           nothing

On N(0, [[1, ρ], [ρ, 1]]) with y = x_1 + σ_y n, ρ = 0.8, σ_y = 10⁻³, the reverse SDE ends at these means and variances
of x_2, for y = 1: exact and MMPS 0.800, 0.360; PiGDM 0.763, 0.379; JFPS with C = I 0.500, 0.538; DPSGaussian 0.976,
0.303. The probability-flow ODE has larger biases, since it never forgets: use an SDE solver with approximate methods.

In float32, x̂ has a rounding error of about 10⁻⁷/α, so α at t_max should not be far below 10⁻³.

Cost per evaluation: one score, and V k + 1 times for MMPS with k iterations, twice for DTMPD, once for PiGDM
and DPSGaussian; DPS takes its gradient once. JFPS needs no derivative of the network.

MMPS: Rozet et al. 2024, arXiv:2405.13712, section 4. PiGDM: Song et al. 2023, ICLR, "Pseudoinverse-guided diffusion
models", eq. 7 and 8, there with s = 1. DTMPD: Boys et al. 2023, arXiv:2310.06721. DPS: Chung et al. 2023,
arXiv:2209.14687, algorithm 1. JFPS: as in azula's `JFPSDenoiser`.
"""

import abc
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from sde_lib.node import Leaf, PyTreeNode, Scalar, number, static
from sde_lib.parameterization import ScoreFn, make_score_fn, x0_hat
from sde_lib.posterior.krylov import Linear, Rows, conjugate_gradients, gmres, norm, safe_ratio, size
from sde_lib.posterior.observation import Observation, adjoint
from sde_lib.sde import GaussianSDE, Time, expand


def posterior_score(
    score_fn: ScoreFn, sde: GaussianSDE, observation: Observation, method: "Method | None" = None
) -> ScoreFn:
    """(x, t) → s(x, t) + g(x, t), by a method of the table above; the default is MMPS().

    ValueError where y and A do not fit x, or σ_y = 0 for a method that divides by it.
    """
    method = MMPS() if method is None else method
    method.check(observation)

    def guided(x: Rows, t: Time) -> Rows:
        return method(score_fn, sde, observation, x, t)

    return guided


class Method(PyTreeNode, abc.ABC):
    """(score_fn, sde, observation, x, t) → the score of the posterior."""

    has_score = True  # and so likelihoods and codes

    def check(self, observation: Observation) -> None:
        """ValueError if the method does not apply to the observation."""

    def condition(self, model, observation: Observation):
        """The model conditioned on the observation in model space."""
        return model.replace(observed=(observation, self))

    def model_score(self, network, sde, parameterization, observation: Observation, cond=None) -> ScoreFn:
        """The score of the posterior by a network (x, c_noise, cond) → F, with the model's cond."""
        plain = make_score_fn(partial(network, cond=cond), sde, parameterization)
        return posterior_score(plain, sde, observation, self)

    def finish(self, observation: Observation, x: Rows) -> Rows:
        """The samples, given those of the sampler."""
        return x

    @abc.abstractmethod
    def __call__(self, score_fn: ScoreFn, sde: GaussianSDE, observation: Observation, x: Rows, t: Time) -> Rows: ...


class _ByCovariance(Method):
    """(2) with V̂ by `covariance` and J by differentiation, in `iterations` steps of conjugate gradients."""

    iterations = 1  # exact where V̂ = 0

    @abc.abstractmethod
    def covariance(self, sde: GaussianSDE, x: Rows, t: Time, V: Linear) -> Linear:
        """w ↦ V̂ w, given w ↦ V w."""

    def solve(self, matrix: Linear, residual: Rows) -> Rows:
        """matrix⁻¹ residual, row by row."""
        return conjugate_gradients(matrix, residual, min(self.iterations, size(residual)))

    def __call__(self, score_fn, sde, observation, x, t):
        score, x0, V = denoised(score_fn, sde, x, t)
        found, A, At = linearized(observation, x0)
        matrix = covariance_of_y(observation, A, At, self.covariance(sde, x, t, V))
        pull = V(At(self.solve(matrix, observation.minus(found))))
        return score + expand(sde.alpha(t) / sde.sigma(t) ** 2, x) * pull


class MMPS(_ByCovariance):
    """V̂ = V, (2) solved in `iterations` steps of "gmres" or "cg".

    V is symmetric for an exact score, where conjugate gradients are the cheaper choice. A network's is not: then
    they may diverge, and GMRES does not. As many iterations as y has numbers solve (2) exactly.
    """

    iterations: int = static(5, at_least=1)
    solver: str = static("gmres")

    def check(self, observation):
        if self.solver not in ("gmres", "cg"):
            raise ValueError(f"MMPS: expected the solver 'gmres' or 'cg', got {self.solver!r}")

    def covariance(self, sde, x, t, V):
        return V

    def solve(self, matrix, residual):
        iterations = min(self.iterations, size(residual))
        return (gmres if self.solver == "gmres" else conjugate_gradients)(matrix, residual, iterations)


class PiGDM(_ByCovariance):
    """V̂ = r² I with r² = σ² s²/(σ² + α² s²), s = `data_std`, the standard deviation of the data in model space."""

    data_std: Scalar = number(1.0, above=0)
    iterations: int = static(20, at_least=1)

    def covariance(self, sde, x, t, V):
        variance, s2 = sde.sigma(t) ** 2, self.data_std**2
        scale = expand(variance * s2 / (variance + sde.alpha(t) ** 2 * s2), x)
        return lambda w: scale * w


class DTMPD(_ByCovariance):
    """V̂ = diag(V 1), the sums of the rows of V, at least 0."""

    iterations: int = static(20, at_least=1)

    def covariance(self, sde, x, t, V):
        diagonal = jnp.maximum(V(jnp.ones_like(x)), 0.0)
        return lambda w: diagonal * w


class DPSGaussian(_ByCovariance):
    """V̂ = 0: ∇_x log N(y; A x̂(x), σ_y² I). It requires σ_y > 0."""

    def check(self, observation):
        _require_noise(self, observation)

    def covariance(self, sde, x, t, V):
        return jnp.zeros_like


class JFPS(Method):
    """V̂ = (C⁻¹ + (α²/σ²) I)⁻¹ and J = (α/σ²) V̂, for a prior N(m, C); no derivative of the network.

    `covariance` is C: a variance, variances [*event], or a matrix [d, d] of the flattened event.
    """

    covariance: Leaf = number(1.0)
    iterations: int = static(20, at_least=1)

    def __call__(self, score_fn, sde, observation, x, t):
        score = score_fn(x, t)
        x0 = x0_hat(sde, x, t, score)
        found, A, At = linearized(observation, x0)
        ratio = expand(sde.sigma(t) ** 2 / sde.alpha(t) ** 2, x)
        V = _shrunk(jnp.asarray(self.covariance, x.dtype), ratio, x)
        matrix, residual = covariance_of_y(observation, A, At, V), observation.minus(found)
        u = conjugate_gradients(matrix, residual, min(self.iterations, size(residual)))
        return score + V(At(u)) * expand(sde.alpha(t) / sde.sigma(t) ** 2, x)


class DPS(Method):
    """g = −scale ∇_x ‖y − A x̂‖, or of the square of the norm with norm="squared".

    In the paper's algorithm 1, x after each ancestral step is moved by −ζ ∇‖y − A x̂‖ (its code) or by −ζ ∇‖y − A x̂‖²
    (its text). A step of length Δt adds g² Δt times a score, so scale = ζ/(g² Δt) is theirs; a constant scale is not.
    """

    scale: Scalar = number(1.0, above=0)
    norm: str = static("norm")

    def check(self, observation):
        if self.norm not in ("norm", "squared"):
            raise ValueError(f"DPS: expected norm 'norm' or 'squared', got {self.norm!r}")

    def __call__(self, score_fn, sde, observation, x, t):
        x0, pull, score = jax.vjp(lambda x: _with_score(score_fn, sde, x, t), x, has_aux=True)
        found, _, At = linearized(observation, x0)
        residual = observation.minus(found)
        along = 2 * residual if self.norm == "squared" else safe_ratio(residual, norm(residual))
        return score + self.scale * pull(At(along))[0]


# Parts


def denoised(score_fn: ScoreFn, sde: GaussianSDE, x: Rows, t: Time) -> tuple[Rows, Rows, Linear]:
    """(s, x̂, w ↦ V w) of (1), by one evaluation of the score."""
    x0, jacobian, score = jax.linearize(lambda x: _with_score(score_fn, sde, x, t), x, has_aux=True)
    scale = expand(sde.sigma(t) ** 2 / sde.alpha(t), x)
    return score, x0, lambda w: jacobian(scale * w)


def _with_score(score_fn, sde, x, t):
    score = score_fn(x, t)
    return x0_hat(sde, x, t, score), score


def linearized(observation: Observation, x0: Rows) -> tuple[Rows, Linear, Linear]:
    """(A(x0), A, Aᵀ), with the derivative of an A that is not linear."""
    found, A = jax.linearize(observation.operator, x0)
    return found, A, adjoint(A, x0)


def covariance_of_y(observation: Observation, A: Linear, At: Linear, V: Linear) -> Linear:
    """u ↦ (A V Aᵀ + σ_y² I) u."""
    return lambda u: jnp.asarray(observation.noise_std, u.dtype) ** 2 * u + A(V(At(u)))


def _shrunk(C: Array, ratio: Array, x: Rows) -> Linear:
    """w ↦ (C⁻¹ + I/ratio)⁻¹ w = ratio C (C + ratio I)⁻¹ w, ratio = σ²/α²."""
    d = size(x)
    if C.ndim == 2 and C.shape == (d, d) and x.shape[1:] != C.shape and ratio.ndim == x.ndim and size(ratio) == d:
        of_rows = jnp.broadcast_to(ratio, x.shape).reshape(len(x), d)  # each coordinate has its own
        total = C[None] + of_rows[:, :, None] * jnp.eye(d, dtype=C.dtype)[None]

        def by_solve(w: Rows) -> Rows:
            Cw = jnp.matmul(w.reshape(len(w), d), C.T, precision="highest")
            return (of_rows * jnp.linalg.solve(total, Cw[..., None])[..., 0]).reshape(w.shape)

        return by_solve
    if C.ndim == 2 and C.shape == (d, d) and x.shape[1:] != C.shape:
        values, vectors = jnp.linalg.eigh(C)
        flat = jnp.broadcast_to(ratio.reshape(-1, 1), (len(x), 1)) if ratio.ndim else ratio
        factors = flat * values[None] / (values[None] + flat)

        def by_matrix(w: Rows) -> Rows:
            rotated = jnp.matmul(w.reshape(len(w), -1), vectors, precision="highest")
            return jnp.matmul(factors * rotated, vectors.T, precision="highest").reshape(w.shape)

        return by_matrix
    C = C.reshape((1,) * (x.ndim - C.ndim) + C.shape) if C.ndim else C
    return lambda w: ratio * C / (C + ratio) * w


def _require_noise(method: Method, observation: Observation) -> None:
    if not isinstance(observation.noise_std, Tracer) and not observation.noise_std > 0:
        raise ValueError(f"{type(method).__name__}: expected noise_std > 0, since it divides by it, got 0")
