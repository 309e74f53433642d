"""Adam as the published experiments use it: warm-up, an optional decay, clipping by the gradient's global norm."""

import optax

from sde_lib.numbers import AT_LEAST_ONE, POSITIVE, Allowed, check_numbers
from sde_lib.training.xla import clip_by_global_norm

ALLOWED = {
    "learning_rate": POSITIVE,
    "warmup_steps": Allowed(at_least=0, whole=True),
    "decay_steps": AT_LEAST_ONE,
    "clip_norm": Allowed(finite=False),
    "b1": Allowed(at_least=0, below=1),
    "b2": Allowed(at_least=0, below=1),
    "eps": POSITIVE,
    "weight_decay": Allowed(at_least=0),
}


def adam(
    learning_rate: float = 2e-4,
    warmup_steps: int = 5000,
    decay_steps: int | None = None,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam after clipping by the global norm, with a learning rate that increases linearly over `warmup_steps`.

    With `decay_steps` it then decays along a half cosine to 0 at that step, and the warm-up takes at most half of these
    steps. Without, it stays constant. The published experiments use the defaults (Song et al. 2021, appendix H).

    A clip_norm of 0 or less means no clipping. Raises ValueError for a number that is not allowed.
    """
    check_numbers("adam", locals(), **ALLOWED)
    schedule = optax.schedules.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate
    if decay_steps is not None:
        warmup = min(warmup_steps, decay_steps // 2)
        schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, decay_steps)
    return optax.chain(
        clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity(),
        optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
    )
