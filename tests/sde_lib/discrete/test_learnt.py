"""A source of known entropy, learnt by the transformer through the training step: the bound reaches it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import TokenTransformer, as_network
from sde_lib import adam, init_state, make_train_step
from sde_lib.discrete import (
    AnyOrder,
    MaskedDiffusion,
    MaskedProcess,
    TokenModel,
    TokenSampler,
)

SYMBOLS, LENGTH, STAY = 27, 12, 0.85


class ThirdOrder:
    """x_t is x_{t−3} under a permutation with probability 0.85, and any of 27 symbols else."""

    permutation = np.random.default_rng(5).permutation(SYMBOLS)
    likely = STAY + (1 - STAY) / SYMBOLS
    rare = (1 - STAY) / SYMBOLS
    rate = -likely * np.log2(likely) - (SYMBOLS - 1) * rare * np.log2(rare)
    bits_per_token = (3 * np.log2(SYMBOLS) + (LENGTH - 3) * rate) / LENGTH

    @classmethod
    def draw(cls, n, seed):
        draw = np.random.default_rng(seed)
        x = draw.integers(0, SYMBOLS, (n, LENGTH))
        for t in range(3, LENGTH):
            stays = draw.random(n) < STAY
            x[:, t] = np.where(stays, cls.permutation[x[:, t - 3]], x[:, t])
        return x

    @classmethod
    def bits_of(cls, x):
        """−log₂ p(x)/L of each row."""
        kept = x[:, 3:] == cls.permutation[x[:, :-3]]
        return (3 * np.log2(SYMBOLS) - np.where(kept, np.log2(cls.likely), np.log2(cls.rare)).sum(1)) / LENGTH


def trained(process, objective, steps, features=64, depth=2, batch=128, rate=4e-3):
    states = process.num_states
    module = TokenTransformer(num_states=states, features=features, depth=depth, heads=4)
    network, tx = as_network(module), adam(learning_rate=rate, warmup_steps=100, decay_steps=steps, b2=0.99)
    params = network.init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.float32), jnp.zeros(1, jnp.float32))
    state = init_state(jax.random.key(1), params, tx)
    step = jax.jit(make_train_step(network, objective, tx, ema=0.99), donate_argnums=0)
    for k in range(steps):
        state, _ = step(state, {"x": ThirdOrder.draw(batch, [1, k]).astype(np.float32)})
    return TokenModel(sde=process, params=state.ema_params, network=network, shape=(LENGTH,))


@pytest.mark.slow
@pytest.mark.usefixtures("usual_promotion")
def test_the_bound_reaches_the_entropy_of_a_third_order_source():
    """Measured: 0.033 ± 0.005 bits per token above 2.145, which is 2.6 % of the entropy rate, in 216 s of one core."""
    process = MaskedProcess(num_tokens=SYMBOLS)
    model, x = trained(process, MaskedDiffusion(sde=process), steps=4000), ThirdOrder.draw(2000, 7)
    gap = np.asarray(model.bits_per_token(jax.random.key(2), x, num_times=32)[0]) - ThirdOrder.bits_of(x)
    mean, error = float(np.mean(gap)), float(np.std(gap) / np.sqrt(len(gap)))
    print(f"{mean:.4f} ± {error:.4f} bits per token above the entropy {ThirdOrder.bits_per_token:.4f}")
    assert -4 * error < mean < 0.03 * ThirdOrder.bits_per_token
    sampler = TokenSampler(solver=AnyOrder(), num_steps=48)
    samples = model.replace(sampler=sampler).sample(jax.random.key(3), 500)
    kept = np.mean(samples[:, 3:] == ThirdOrder.permutation[samples[:, :-3]])
    assert abs(kept - ThirdOrder.likely) < 0.03
