"""The projected moment chunk by chunk: the projected tokens never exist as a whole."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.projected import check_projection, masked_project
from covjax.tokens import check_tokens, check_weights, safe_ratio, token_weights, weighted_mean

_HIGHEST = jax.lax.Precision.HIGHEST


def chunked_projected_moment(
    x: Float[Array, "tokens features"],
    left: Float[Array, "features rank_a"],
    right: Float[Array, "features rank_b"] | None = None,
    weights: Float[Array, "tokens"] | None = None,
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
    x = check_tokens(x)
    weights = check_weights(weights, x.shape[0])
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
        return count, mean, jnp.matmul((a * weight[:, None]).T, b, precision=_HIGHEST)

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
