"""Means of positive definite matrices: log-Euclidean, and affine-invariant (Fréchet) with its residual."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import host_array, is_concrete
from covjax.spectral import eigh
from covjax.tokens import HIGHEST, MatrixLike


def _function(a: Float[Array, "d d"], function) -> Float[Array, "d d"]:
    s, v = eigh(a)
    out = jnp.matmul(v * function(s)[None], v.T, precision=HIGHEST)
    return (out + out.T) / 2


def symmetric_exp(a: MatrixLike) -> Float[Array, "d d"]:
    """The matrix exponential of a symmetric matrix, by `eigh`."""
    return _function(jnp.asarray(a), jnp.exp)


def _log(a, ridge=0.0):
    # Rounding may leave an eigenvalue at or below 0, whose logarithm would be NaN.
    return _function(a, lambda s: jnp.log(jnp.maximum(s + ridge, jnp.finfo(s.dtype).tiny)))


def _stack(matrices) -> Float[Array, "n d d"]:
    if is_concrete(matrices) and not isinstance(matrices, jax.Array):
        matrices = host_array(matrices, "matrices")
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or 0 in matrices.shape:
        raise InputError(f"matrices must have shape (n, d, d), got {tuple(matrices.shape)}")
    return jnp.asarray(matrices)


def log_euclidean_mean(matrices: Float[Array | np.ndarray, "n d d"], ridge: float = 0.0) -> Float[Array, "d d"]:
    """exp of the mean of log(A_i + ridge·I) (Arsigny et al. 2007).

    Raises InputError unless the matrices are (n, d, d).
    """
    return symmetric_exp(jnp.mean(jax.lax.map(partial(_log, ridge=ridge), _stack(matrices)), axis=0))


@partial(jax.jit, static_argnames="max_iterations")
def _frechet(matrices, start, tolerance, max_iterations):
    def step(state):
        mean, _, _, count = state
        root, inverse = _function(mean, jnp.sqrt), _function(mean, jax.lax.rsqrt)

        def tangent(a):
            return _log(jnp.matmul(jnp.matmul(inverse, a, precision=HIGHEST), inverse, precision=HIGHEST))

        direction = jnp.mean(jax.lax.map(tangent, matrices), axis=0)
        move = jnp.matmul(jnp.matmul(root, symmetric_exp(direction), precision=HIGHEST), root, precision=HIGHEST)
        return (move + move.T) / 2, mean, jnp.linalg.norm(direction), count + 1

    def unfinished(state):
        return (state[2] > tolerance) & (state[3] < max_iterations)

    first = (start, start, jnp.full((), jnp.inf, start.dtype), 0)
    _, mean, residual, _ = jax.lax.while_loop(unfinished, step, first)
    return mean, residual


def frechet_mean(
    matrices: Float[Array | np.ndarray, "n d d"], ridge: float = 0.0, tolerance: float = 1e-4, max_iterations: int = 50
) -> tuple[Float[Array, "d d"], Float[Array, ""]]:
    """The affine-invariant mean G of A_i + ridge·I and its residual ‖mean of log(G^{-½} A_i G^{-½})‖_F.

    Gradient steps of length 1 from the log-Euclidean mean (Moakher 2005) until the residual, which belongs to the
    matrix returned, is at most `tolerance`; a larger one says that it has not converged in `max_iterations`.

    Raises InputError unless the matrices are (n, d, d).
    """
    matrices = _stack(matrices)
    matrices = matrices + ridge * jnp.eye(matrices.shape[1], dtype=matrices.dtype)
    return _frechet(matrices, log_euclidean_mean(matrices), tolerance, max_iterations)


def inverse_root(a: MatrixLike) -> Float[np.ndarray, "d d"]:
    """A^{-½} of a positive definite matrix, in float64 on the host: what `tangent_space` is given.

    Raises InputError for an eigenvalue that is not above 1e-12 of the largest.
    """
    s, v = np.linalg.eigh(host_array(a, "a").astype(np.float64))
    if not s[0] > 1e-12 * s[-1]:
        raise InputError(f"a must be positive definite, got eigenvalues from {s[0]:.3g} to {s[-1]:.3g}; add ridge·I")
    return (v / np.sqrt(s)) @ v.T
