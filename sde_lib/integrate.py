"""Ordinary differential equations over the whole of a process: dy/dt = field(y, t) between t_min and t_max.

`Adaptive` and `Fixed` serve likelihoods, encoding and decoding alike; the state y of one event is any pytree, and many
events are solved under `vmap`, each with its own steps. Under `jit` a failure cannot raise: what is late is NaN.
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PyTree

from sde_lib.node import Node, Scalar, static
from sde_lib.sampling import Grid, PowerGrid
from sde_lib.sde import SDE


class Adaptive(Node):
    """An explicit Runge–Kutta pair of diffrax, each sample with steps of its own, within rtol |y| + atol of error each.

    The variable is u = t^{1/power}. Near the data the flow of a process with σ² ∝ t moves as √t, and in t itself takes
    twice as many evaluations: on digits, at the default tolerance, 186 in t, 91 in t^{1/2} and 90 in t^{1/3}.

    NaN where `max_steps` steps, rejected ones included, were not enough. Where y has several leaves, each is held to
    the tolerance by its own root mean square. Times are of y's dtype.
    """

    rtol: Scalar = 1e-5
    atol: Scalar = 1e-5
    power: Scalar = 3.0
    method: diffrax.AbstractERK = static(diffrax.Tsit5())
    max_steps: int = static(4096)

    def __call__(self, field: Callable, y: PyTree, sde: SDE, to_noise: bool) -> tuple[PyTree, Integer[Array, ""]]:
        """(y at the other end, evaluations of the field), by dy/dt = field(y, t) from t_min or from t_max."""
        return self.between(field, y, *((sde.t_min, sde.t_max) if to_noise else (sde.t_max, sde.t_min)))

    def between(self, field: Callable, y: PyTree, t0, t1) -> tuple[PyTree, Integer[Array, ""]]:
        """(y at t1, evaluations of the field), from y at t0; times are not negative, and t1 may be before t0."""
        dtype = jnp.result_type(*jax.tree.leaves(y))
        power, fsal = jnp.asarray(self.power, dtype), int(self.method.tableau.fsal)
        u0, u1 = (jnp.asarray(t, dtype) ** (1 / power) for t in (t0, t1))

        def slope(y, u):
            """dy/du."""
            return jax.tree.map(lambda dy: power * u ** (power - 1) * dy, field(y, u**power))

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda u, y, _: slope(y, u)),
            self.method,
            u0,
            u1,
            (u1 - u0) / 100,
            y,
            # The first stage of a step is the last of the one before. So given, it is evaluated once.
            solver_state=(jnp.asarray(False), slope(y, u0)) if fsal else None,
            stepsize_controller=diffrax.PIDController(
                jnp.asarray(self.rtol, dtype), jnp.asarray(self.atol, dtype), norm=_largest_rms
            ),
            max_steps=self.max_steps,
            throw=False,
        )
        arrived = solution.result == diffrax.RESULTS.successful
        y = jax.tree.map(lambda leaf: jnp.where(arrived, leaf[0], jnp.nan), solution.ys)
        return y, fsal + solution.stats["num_steps"] * (self.method.tableau.num_stages - fsal)

    def coarser(self):
        """(This with ten times the tolerance, the share of the difference that is our error: 1/9 if proportional)."""
        return self.replace(rtol=10 * self.rtol, atol=10 * self.atol), 1 / 9


class Fixed(Node):
    """The classical Runge–Kutta method of order 4 on a grid: 4 evaluations a step."""

    grid: Grid = PowerGrid(power=3.0)
    num_steps: int = static(128)

    def __post_init__(self):
        if self.num_steps < 2:
            raise ValueError(f"a likelihood takes at least 2 steps; got num_steps={self.num_steps}")

    def __call__(self, field, y: PyTree, sde: SDE, to_noise: bool) -> tuple[PyTree, Integer[Array, ""]]:
        """As Adaptive's."""
        times = self.grid(sde, self.num_steps).astype(jnp.result_type(*jax.tree.leaves(y)))
        times = times[::-1] if to_noise else times

        @jax.checkpoint
        def step(y, interval):
            t, s = interval
            h, middle = s - t, 0.5 * (s + t)
            k1 = field(y, t)
            k2 = field(_add(y, 0.5 * h, k1), middle)
            k3 = field(_add(y, 0.5 * h, k2), middle)
            k4 = field(_add(y, h, k3), s)
            slope = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
            return _add(y, h, slope), None

        return jax.lax.scan(step, y, (times[:-1], times[1:]))[0], jnp.asarray(4 * self.num_steps)

    def coarser(self):
        """(This with half of the steps, the share of the difference that is our error: 1/15 at order 4)."""
        half = self.num_steps // 2
        return self.replace(num_steps=half), 1 / ((self.num_steps / half) ** 4 - 1)


def _add(y, h, slope):
    return jax.tree.map(lambda a, b: a + h * b, y, slope)


def _largest_rms(errors) -> Float[Array, ""]:
    """The largest root mean square among the leaves, so that one number beside an image counts as much as the image;
    to the nearest 2^(k + ½), and at least about 2⁻⁶.

    The steps then do not follow the last digits of the error, which are those of rounding and differ between batches
    and devices; above 1 it is just where it was. There is no gradient through the choice of the steps.
    """
    squares = jnp.stack([jnp.mean(leaf**2) for leaf in jax.tree.leaves(errors)])
    rms = jnp.sqrt(jax.lax.stop_gradient(jnp.max(squares)))
    return 2.0 ** (jnp.floor(jnp.log2(jnp.maximum(rms, 2.0**-6))) + 0.5)
