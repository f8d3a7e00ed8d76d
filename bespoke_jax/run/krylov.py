"""Linear equations with a Jacobian J, and the trace of log J, from products J v alone: Arnoldi's method for a batch of matrices.

References: Saad & Schultz 1986 (GMRES); Ubaru, Chen & Saad 2017 (the trace of a function of a symmetric matrix from products with
random vectors; here by Arnoldi in place of Lanczos, since J is not symmetric); Anderson 1965 (the extrapolation of an iteration,
which is GMRES for a linear one: Walker & Ni 2011).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.types import Array

__all__ = ["accelerated", "arnoldi", "log_trace", "solution"]

_BREAKDOWN = 100  # units in the last place: a smaller remainder is round-off, and the space is invariant
_RANK = 1e-12  # of a matrix of squares: directions shorter than 1e-6 of the longest are round-off


def arnoldi(
    product: Callable[[Array], Array], start: Float[Array, "B D"], size: int
) -> tuple[Float[jax.Array, "k1 B D"], Float[jax.Array, "B k1 k"]]:
    """Orthonormal vectors V of the span of v, J v, J^2 v, ... of each sample, and H with J V[:-1] = V H, k = `size`.

    Args:
        product: v [B, D] -> J v, each sample with its own J.
        start: v; 0 gives V = 0.
        size: k, at most D.

    Returns:
        (V [k + 1, B, D], H [B, k + 1, k]). Where the space ends before k, the further vectors are 0, and H has 1 on the diagonal.
    """
    tiny = _BREAKDOWN * jnp.finfo(start.dtype).eps
    first = start / jnp.maximum(_lengths(start), jnp.finfo(start.dtype).tiny)
    vectors = jnp.zeros((size + 1, *start.shape), start.dtype).at[0].set(first)

    def step(vectors, j):
        v = vectors[j]
        image = rest = product(v)
        column = jnp.zeros(vectors.shape[:2], start.dtype)
        for _ in range(2):  # once leaves round-off along the vectors
            along = jnp.einsum("kbd,bd->kb", vectors, rest)
            column, rest = column + along, rest - jnp.einsum("kb,kbd->bd", along, vectors)
        left = _lengths(rest)
        goes_on = left > tiny * _lengths(image)
        following = jnp.where(goes_on, rest / jnp.where(goes_on, left, 1), 0)
        column = column.at[j + 1].set(jnp.where(goes_on, left, 0)[:, 0])
        ended = jnp.all(v == 0, axis=1)
        column = jnp.where(ended, (jnp.arange(size + 1) == j).astype(column.dtype)[:, None], column)
        return vectors.at[j + 1].set(following), column

    vectors, columns = jax.lax.scan(step, vectors, jnp.arange(size))
    return vectors, jnp.transpose(columns, (2, 1, 0))


def solution(product: Callable[[Array], Array], target: Float[Array, "B D"], size: int) -> Float[jax.Array, "B D"]:
    """GMRES: the x of the first `size` dimensions of the Krylov space that makes |J x - target| least; exact for size = D."""
    vectors, h = arnoldi(product, target, size)
    q, r = jnp.linalg.qr(h)
    # A diagonal of 0 (J is singular) gives infinity; 0 there makes no move in that direction.
    y = jax.scipy.linalg.solve_triangular(r, (_lengths(target) * q[:, 0])[..., None])[..., 0]
    return jnp.einsum("bk,kbd->bd", jnp.where(jnp.isfinite(y), y, 0), vectors[:-1])


def accelerated(states: Sequence[np.ndarray], moves: Sequence[np.ndarray]) -> np.ndarray:
    """Anderson's extrapolation of the iteration x -> x + move(x) in each sample: the x whose move is 0, if moves are linear.

    Args:
        states: the last k of x, each [B, *event], the oldest first.
        moves: those of these states.

    Examples:
        >>> matrix = np.array([[2.0, 0.5], [0.0, 0.1]])  # x -> x + 1 - matrix x diverges
        >>> states, moves = [np.zeros((1, 2))], [np.ones((1, 2))]
        >>> for _ in range(3):
        ...     states.append(accelerated(states, moves))
        ...     moves.append(1 - states[-1] @ matrix.T)
        >>> bool(np.abs(moves[-1]).max() < 1e-9)
        True
    """
    x, f = (np.stack(each).reshape(len(each), len(each[0]), -1) for each in (states, moves))
    dx, df = np.diff(x, axis=0), np.diff(f, axis=0)
    gram, right = np.einsum("ibd,jbd->bij", df, df), np.einsum("ibd,bd->bi", df, f[-1])
    shares = np.einsum("bij,bj->bi", np.linalg.pinv(gram, _RANK, hermitian=True), right)
    return (x[-1] + f[-1] - np.einsum("bi,ibd->bd", shares, dx + df)).reshape(states[-1].shape)


def log_trace(h: Float[np.ndarray, "B k1 k"], dimension: int, size: int | None = None) -> Float[np.ndarray, "B"]:
    """dimension * Re (log H)_11, an estimate of log|det J| = Re tr log J by `arnoldi` from a vector of random signs.

    Its mean over such vectors is exact for k = D. For smaller k the logarithm is replaced by a polynomial of degree 2k - 1 or so.

    Args:
        h: from `arnoldi`.
        dimension: D.
        size: use the first `size` dimensions only; None for all.

    Examples:
        >>> half = np.broadcast_to(0.5 * np.eye(3), (1, 3, 3))
        >>> bool(np.isclose(log_trace(np.pad(half, ((0, 0), (0, 1), (0, 0))), 3)[0], 3 * np.log(0.5)))
        True
    """
    size = h.shape[-1] if size is None else size
    square = np.asarray(h, np.float64)[:, :size, :size]
    values, vectors = np.linalg.eig(square)
    weights = vectors[:, 0] * np.linalg.inv(vectors)[:, :, 0]
    values = np.where(values == 0, np.finfo(np.float64).tiny, values)
    return dimension * np.sum(weights * np.log(values.astype(np.complex128)), axis=1).real


def _lengths(x: Array) -> jax.Array:
    return jnp.linalg.norm(x, axis=1, keepdims=True)
