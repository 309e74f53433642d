"""Guided scores: functions from scores to scores, for any solver.

By Bayes' rule at time t, ∇log p_t(x | c) = ∇log p_t(x) + ∇log p_t(c | x). The last term may be weighted by w:

    s_w(x, t) = s(x, t) + w ∇log p_t(c | x)                      by a classifier,                           (1)
    s_w(x, t) = s(x, t) + w [s(x, t | c) − s(x, t)]              by two scores, without one,                (2)

With several conditions c_1 … c_K, each may have its own weight:

    s_w(x, t) = s(x, t) + Σ_k w_k [s(x, t | c_1 … c_k) − s(x, t | c_1 … c_{k−1})]                           (3)

(Brooks et al. 2023, arXiv:2211.09800, eq. 3, for two). With all w_k = w it is (2); with all 1 the conditional score.

(Dhariwal & Nichol 2021, arXiv:2105.05233, section 4; Song et al. 2021, arXiv:2011.13456, eq. 14; Ho & Salimans 2022,
arXiv:2207.12598, eq. 6, whose w is smaller by one). In (2), w = 0 is the unconditional score. w = 1 is the conditional
one, whose samples have the distribution p(x | c). Any other w gives, at each t, the score of p_t(x)^{1−w} p_t(x | c)^w
up to a constant. These densities are not the marginals of one process. As w grows, samples concentrate on c, but their
distribution also depends on the solver (Bradley & Nakkiran 2024, arXiv:2408.09000).

Guidance may be limited to an interval of noise levels. At high levels it costs variety, at low ones it does little:

    s(x, t) = s_w(x, t)   where low ≤ σ/α ≤ high,   else s(x, t | c)                                     (4)

(Kynkäänniemi et al. 2024, arXiv:2404.07724).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_lib.node import Scalar
from sde_lib.numbers import Allowed, check_number
from sde_lib.parameterization import ScoreFn
from sde_lib.sde import GaussianSDE, Time, per_time
from sde_lib.solvers.step_size import where_row


def classifier_guided(
    score_fn: ScoreFn, log_prob: Callable[[Float[Array, "B ..."], Time], Float[Array, " B"]], scale: Scalar = 1.0
) -> ScoreFn:
    """The score of (1), score + scale ∇log p_t(c | x), as a function of x [B, ...] and t.

    log_prob(x, t) is log p_t(c | x) [B] in nats for the chosen c, up to a constant; entry i depends on x[i]. Each
    evaluation costs one of the score, and one of log_prob with its gradient. The classifier is evaluated at every t, so
    it must be trained on noisy data.
    """

    check_number("classifier_guided", "scale", scale, Allowed())

    def guided(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        return score_fn(x, t) + scale * jax.grad(lambda x: jnp.sum(log_prob(x, t)))(x)

    return guided


def classifier_free(conditional: ScoreFn, unconditional: ScoreFn, scale: Scalar) -> ScoreFn:
    """The score of (2), free + scale (conditional − free), as a function of x [B, ...] and t.

    Each evaluation costs one of `conditional` and one of `unconditional`. ValueError for a scale that is no number.
    """
    check_number("classifier_free", "scale", scale, Allowed())

    def guided(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        free = unconditional(x, t)
        return free + scale * (conditional(x, t) - free)

    return guided


def guided_by_each(
    score_fn: Callable[[Any], ScoreFn], cond: Mapping[str, Any], scales: Mapping[str, Scalar]
) -> ScoreFn:
    """The score of (3), which adds a scaled difference for each of K conditions, as a function of x [B, ...] and t.

    score_fn(cond) is the score given a dict of conditions, arrays [B, ...], where None is that without the condition.
    Conditions are added in the order of their names. An evaluation costs K + 1 of the score. ValueError unless `scales`
    has the names of `cond`.
    """
    names = sorted(cond)
    if sorted(scales) != names:
        raise ValueError(f"guidance: expected a scale for each of {', '.join(names)}, got {', '.join(sorted(scales))}")
    given = [{name: cond[name] if name in names[:k] else None for name in names} for k in range(len(names) + 1)]
    chain = [score_fn(each) for each in given]

    def guided(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        values = [each(x, t) for each in chain]
        steps = [scales[name] * (b - a) for name, a, b in zip(names, values, values[1:], strict=False)]
        return values[0] + sum(steps)

    return guided


def in_interval(
    guided: ScoreFn, plain: ScoreFn, sde: GaussianSDE, low: Scalar = 0.0, high: Scalar = jnp.inf
) -> ScoreFn:
    """(4), with `plain` the score given c. At one t for all samples, only one of the two is evaluated.

    σ/α is the mean over coordinates where they differ. ValueError unless 0 ≤ low ≤ high.
    """
    check_number("in_interval", "low", low, Allowed(at_least=0))
    check_number("in_interval", "high", high, Allowed(at_least=low, finite=False))

    def score(x: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        level = per_time(sde.sigma(t) / sde.alpha(t), t)
        inside = (low <= level) & (level <= high)
        if jnp.ndim(t) == 0:
            return jax.lax.cond(inside, guided, plain, x, t)
        return where_row(inside, guided(x, t), plain(x, t))

    return score
