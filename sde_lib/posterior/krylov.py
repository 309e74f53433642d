"""Krylov solvers of M u = b, row by row: one system for each row of a batch, M given as a function.

jax.scipy's solvers take the batch for one vector, and so couple its rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = Float[Array, "B ..."]
Linear = Callable[[Rows], Rows]


def dot(a: Rows, b: Rows) -> Rows:
    """⟨a, b⟩ of each row, [B, 1, …, 1]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def norm(a: Rows) -> Rows:
    """√⟨a, a⟩ of each row, with derivative 0 where it is 0."""
    square = dot(a, a)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def size(rows: Rows) -> int:
    """Numbers in a row."""
    return rows[0].size


def safe_ratio(a: Array, b: Array) -> Array:
    """a/b, and 0 where b is 0."""
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1.0), 0.0)


def conjugate_gradients(matrix: Linear, b: Rows, iterations: int) -> Rows:
    """matrix⁻¹ b for a symmetric positive matrix of each row (Hestenes & Stiefel 1952)."""

    def step(_, state):
        u, r, p, rr = state
        q = matrix(p)
        a = safe_ratio(rr, dot(p, q))
        r = r - a * q
        new = dot(r, r)
        return u + a * p, r, r + safe_ratio(new, rr) * p, new

    return jax.lax.fori_loop(0, iterations, step, (jnp.zeros_like(b), b, b, dot(b, b)))[0]


def gmres(matrix: Linear, b: Rows, iterations: int) -> Rows:
    """The u of the Krylov space span{b, M b, …, M^{k−1} b} with the least ‖b − M u‖, of each row (Saad & Schultz 1986).

    Arnoldi's basis by modified Gram–Schmidt, twice; the small least-squares problem by a pseudoinverse, so that a space
    that is exhausted early does no harm.
    """
    length = norm(b)
    basis, columns = [safe_ratio(b, length)], []
    for k in range(iterations):
        w, column = matrix(basis[k]), jnp.zeros((len(b), iterations + 1), b.dtype)
        before = norm(w)
        for _ in range(2):
            for i, q in enumerate(basis):
                part = dot(q, w)
                w, column = w - part * q, column.at[:, i].add(part.reshape(-1))
        rest = norm(w)
        rest = jnp.where(rest > 10 * jnp.finfo(b.dtype).eps * before, rest, 0.0)  # what is left is rounding
        basis.append(safe_ratio(w, rest))
        columns.append(column.at[:, k + 1].add(rest.reshape(-1)))
    H = jnp.stack(columns, axis=-1)  # [B, k + 1, k]
    small = jnp.einsum("bij,bj->bi", jnp.linalg.pinv(H), jnp.zeros_like(H[:, :, 0]).at[:, 0].set(length.reshape(-1)))
    parts = [small[:, i].reshape(length.shape) * q for i, q in enumerate(basis[:-1])]
    return jnp.sum(jnp.stack(parts), axis=0)
