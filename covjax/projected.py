"""The second moment of projected tokens, whole or over chunks of tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covjax.errors import InputError
from covjax.inputs import VectorLike
from covjax.tokens import (
    HIGHEST,
    MatrixLike,
    TokensLike,
    WeightsLike,
    check_matrix,
    check_sequence,
    safe_ratio,
    token_weights,
    weighted_mean,
)


def check_projection(matrix: Any, features: int, name: str) -> Float[Array | np.ndarray, "{features} rank"]:
    """`matrix` as an array of floats; InputError unless it is (features, rank)."""
    matrix = check_matrix(matrix, name)
    if matrix.shape[0] != features:
        raise InputError(f"{name} must have shape (features {features}, rank), got {tuple(matrix.shape)}")
    return matrix


def check_center(center: Any, features: int) -> None:
    """Raise InputError unless `center` is None, "sequence" or a (features,) vector."""
    if isinstance(center, str):
        if center != "sequence":
            raise InputError(f"center must be None, a (features,) vector or 'sequence', got {center!r}")
    elif center is not None and np.shape(center) != (features,):
        raise InputError(f"center must have shape ({features},), got {np.shape(center)}")


@jax.custom_batching.custom_vmap
def project_tokens(
    x: Float[Array, "tokens features"], matrix: Float[Array | np.ndarray, "features rank"]
) -> Float[Array, "tokens rank"]:
    """`x @ matrix` in float32 or wider; NaN in a row stays in that row. bfloat16 tokens meet a bfloat16 `matrix`."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, matrix.astype(x.dtype), precision=HIGHEST, preferred_element_type=dtype)


@project_tokens.def_vmap
def _project_batch(axis_size, in_batched, x, matrix):
    """One product over the tokens of all sequences: the batched one is several times slower in bfloat16 on CPU."""
    if in_batched == [True, False]:
        flat = project_tokens(x.reshape(-1, x.shape[-1]), matrix)
        return flat.reshape(axis_size, -1, matrix.shape[1]), True
    in_axes = [0 if batched else None for batched in in_batched]
    return jax.vmap(project_tokens.fun, in_axes)(x, matrix), True


@jax.custom_jvp
def masked_project(
    x: Float[Array, "tokens features"], matrix: Float[Array | np.ndarray, "features rank"], keep: Bool[Array, "tokens"]
) -> Float[Array, "tokens rank"]:
    """`x @ matrix` in float32 or wider with masked rows 0.

    The product is masked, not the tokens: rows of a product do not mix, and a masked copy of the tokens is the
    largest array of the computation. Only the derivative by `matrix`, which sums over rows, masks the tokens.
    """
    return jnp.where(keep[:, None], project_tokens(x, matrix), 0)


@masked_project.defjvp
def _masked_project_jvp(primals, tangents):
    x, matrix, keep = primals
    dx, dmatrix, _ = tangents
    y = masked_project(x, matrix, keep)
    clean = jnp.where(keep[:, None], x, 0)
    dtype = y.dtype
    by_x = jnp.matmul(dx, matrix.astype(x.dtype), precision=HIGHEST, preferred_element_type=dtype)
    by_matrix = jnp.matmul(clean, dmatrix.astype(x.dtype), precision=HIGHEST, preferred_element_type=dtype)
    return y, jnp.where(keep[:, None], by_x, 0) + by_matrix


def project_sides(
    x: Array, left: Array | np.ndarray, right: Array | np.ndarray | None, keep: Array
) -> list[tuple[Array, Array | np.ndarray]]:
    """The masked projections and their matrices, one pair for a tied moment and two else.

    One product with [A|B] reads the tokens once but its halves are copied afterwards, which costs more than a second
    product where products are cheap (bfloat16) or wide enough to run at full rate alone (rank >= 64). Measured on CPU
    in `eval.benchmark.pooling`.
    """
    if right is None:
        return [(masked_project(x, left, keep), left)]
    if x.dtype == jnp.bfloat16 or min(left.shape[1], right.shape[1]) >= 64:
        return [(masked_project(x, matrix, keep), matrix) for matrix in (left, right)]
    y = masked_project(x, jnp.concatenate([left, right], axis=1), keep)
    return [(y[:, : left.shape[1]], left), (y[:, left.shape[1] :], right)]


def projected_moment(
    x: TokensLike,
    left: MatrixLike,
    right: MatrixLike | None = None,
    weights: WeightsLike = None,
    *,
    center: VectorLike | str | None = None,
    axis_name: str | None = None,
) -> Float[Array, "rank_a rank_b"]:
    """C = Σ w_i (Aᵀ(x_i − c)) (Bᵀ(x_i − c))ᵀ / n in O(tokens · features · rank).

    Args:
        x: tokens of one sequence; masked tokens may hold NaN or inf. bfloat16 tokens are multiplied with bfloat16
            copies of the projections and accumulated in float32.
        left: A.
        right: B; None ties it to A, which makes C symmetric PSD.
        weights: >= 0, 0 on masked tokens.
        center: c: None for the raw moment AᵀMB, a (features,) vector such as the data set's mean, or "sequence" for
            the sequence's own mean (then C = AᵀΣB).
        axis_name: a mapped axis (`shard_map`, `vmap`) over which the sequence's tokens are spread: every sum runs over
            it, and every member receives the C of all tokens.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes or `center`; outside `jit` also negative, non-finite or all-zero weights. Inside
            `jit` a fully masked sequence yields 0.
    """
    x, weights = check_sequence(x, weights)
    left = check_projection(left, x.shape[1], "left")
    right = None if right is None else check_projection(right, x.shape[1], "right")
    check_center(center, x.shape[1])
    w, keep = token_weights(x, weights)
    count = _over(axis_name, jnp.sum(w))
    sides = []
    for y, matrix in project_sides(jnp.asarray(x), left, right, keep):
        if center is not None:
            matrix = matrix.astype(jnp.asarray(x).dtype)  # as the tokens met it
            shift = _projected_center(center, y, w, matrix, count, axis_name)
            if isinstance(center, str):  # see `weighted_mean`
                rest = jnp.where(keep[:, None], y - shift[None], 0)
                shift = shift + _projected_center(center, rest, w, matrix, count, axis_name)
            y = jnp.where(keep[:, None], y - shift[None], 0)
        sides.append(y)
    return safe_ratio(_over(axis_name, jnp.matmul((sides[0] * w[:, None]).T, sides[-1], precision=HIGHEST)), count)


def _over(axis_name, value):
    return value if axis_name is None else jax.lax.psum(value, axis_name)


def _projected_center(center, y, w, matrix, count, axis_name) -> Float[Array, "rank"]:
    """The centre after projection: centring there saves a copy of the tokens and cancels equally well."""
    if isinstance(center, str):
        return safe_ratio(_over(axis_name, jnp.matmul(w, y, precision=HIGHEST)), count)
    return jnp.matmul(jnp.asarray(center, y.dtype), matrix.astype(y.dtype), precision=HIGHEST)


def chunked_projected_moment(
    x: TokensLike,
    left: MatrixLike,
    right: MatrixLike | None = None,
    weights: WeightsLike = None,
    *,
    center: str | None = None,
    chunk_size: int = 1024,
) -> Float[Array, "rank_a rank_b"]:
    """`projected_moment` chunk by chunk; `center` is None or "sequence".

    Memory beyond the input is O(chunk_size) in float32; in bfloat16 one copy of `x` as well, on CPU.
    For inference on long sequences: reverse-mode differentiation stores every chunk.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes, `center` or chunk_size; outside `jit` also negative, non-finite or all-zero weights.
    """
    x, weights = check_sequence(x, weights)
    left = check_projection(left, x.shape[1], "left")
    right = None if right is None else check_projection(right, x.shape[1], "right")
    if center not in (None, "sequence"):
        raise InputError(f"center must be None or 'sequence', got {center!r}")
    if chunk_size < 1:
        raise InputError(f"chunk_size must be >= 1, got {chunk_size}")
    x = jnp.asarray(x)
    w, keep = token_weights(x, weights)
    matrix = left if right is None else jnp.concatenate([left, right], axis=1)
    rank = left.shape[1]
    # A loop that carries bfloat16 is compiled for CPU with a float32 copy of all of x; as integers it costs one copy.
    stored = jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x

    def statistics(start, length):
        rows = jax.lax.dynamic_slice_in_dim(stored, start, length)
        rows = jax.lax.bitcast_convert_type(rows, x.dtype) if stored is not x else rows
        weight = jax.lax.dynamic_slice_in_dim(w, start, length)
        kept = jax.lax.dynamic_slice_in_dim(keep, start, length)
        y = masked_project(rows, matrix, kept)
        count = jnp.sum(weight)
        mean = weighted_mean(y, weight) if center else jnp.zeros(y.shape[1], w.dtype)
        y = jnp.where(kept[:, None], y - mean[None], 0) if center else y
        a, b = (y, y) if right is None else (y[:, :rank], y[:, rank:])
        return count, mean, jnp.matmul((a * weight[:, None]).T, b, precision=HIGHEST)

    def add(state, part):  # the merge of covjax.moments for a cross-scatter
        (n, mean, scatter), (m, other, more) = state, part
        share, delta = safe_ratio(m, n + m), other - mean
        cross = jnp.outer(delta, delta) if right is None else jnp.outer(delta[:rank], delta[rank:])
        return n + m, mean + share * delta, scatter + more + n * share * cross

    chunk_size = min(chunk_size, x.shape[0])
    whole = x.shape[0] // chunk_size
    state = statistics(0, chunk_size)
    state = jax.lax.fori_loop(1, whole, lambda i, s: add(s, statistics(i * chunk_size, chunk_size)), state)
    if x.shape[0] % chunk_size:
        state = add(state, statistics(whole * chunk_size, x.shape[0] % chunk_size))
    return safe_ratio(state[2], state[0])
