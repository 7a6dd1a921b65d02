"""Symmetric matrices as vectors that keep the Frobenius inner product."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import VectorLike, host_array, is_concrete
from covjax.moments import Moments
from covjax.tokens import MatrixLike, check_matrix


def check_square(a: MatrixLike, name: str = "a") -> Float[Array, "d d"]:
    """`a` as an array of floats; InputError unless it is a square matrix."""
    a = check_matrix(a, name)
    if a.shape[0] != a.shape[1]:
        raise InputError(f"{name} must be a square matrix, got shape {tuple(a.shape)}")
    return jnp.asarray(a)


def vech(a: MatrixLike) -> Float[Array, "k"]:
    """Upper triangle row by row, off-diagonals times √2: ⟨A, B⟩_F = vech(A)·vech(B) for symmetric A, B.

    Raises:
        InputError: `a` is not a square matrix.
    """
    a = check_square(a)
    rows, columns = np.triu_indices(a.shape[0])
    scale = np.where(rows == columns, 1.0, math.sqrt(2.0)).astype(a.dtype)
    return a[rows, columns] * scale


def unvech(v: VectorLike) -> Float[Array, "d d"]:
    """The symmetric matrix whose `vech` is `v`.

    Raises:
        InputError: the length is not d(d+1)/2 for a whole d.
    """
    v = jnp.asarray(v if not is_concrete(v) or isinstance(v, jax.Array) else host_array(v, "v"))
    v = v if jnp.issubdtype(v.dtype, jnp.floating) else v.astype(jnp.float32)
    d = (math.isqrt(8 * v.size + 1) - 1) // 2
    if v.ndim != 1 or v.size == 0 or d * (d + 1) // 2 != v.size:
        raise InputError(f"v must be a vector of length d(d+1)/2, got shape {tuple(v.shape)}")
    rows, columns = np.triu_indices(d)
    scale = np.where(rows == columns, 1.0, 1 / math.sqrt(2.0)).astype(v.dtype)
    upper = v * scale
    return jnp.zeros((d, d), v.dtype).at[rows, columns].set(upper).at[columns, rows].set(upper)


def augmented_moment(m: Moments) -> Float[Array, "d1 d1"]:
    """Second moment of the tokens [x; 1]: [[M, μ], [μᵀ, 1]], mean and second moment in one matrix (0 for n = 0)."""
    corner = (m.count > 0).astype(m.mean.dtype)
    top = jnp.concatenate([m.second_moment(), m.mean[:, None]], axis=1)
    return jnp.concatenate([top, jnp.append(m.mean, corner)[None]], axis=0)
