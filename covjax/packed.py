"""Ragged sequences in one array: blocks of a fixed number of tokens, each belonging to one sequence.

Padding ends at the next block, not at the longest sequence, and every batch has one compiled shape.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import host_array, is_concrete
from covjax.moments import Moments
from covjax.projected import check_projection, project_sides
from covjax.tokens import (
    HIGHEST,
    MatrixLike,
    TokensLike,
    WeightsLike,
    check_sequence,
    check_tokens,
    prepare_tokens,
    safe_ratio,
    token_weights,
)


def pack_blocks(
    sequences: Sequence[TokensLike], block_size: int = 64, num_blocks: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequences one after the other, each starting on a block boundary (host, NumPy).

    Returns:
        tokens (blocks · block_size, features) in the widest of the sequences' types, block_segments (blocks,) int32 and
        weights (blocks · block_size,) float32. Blocks beyond the last sequence carry segment len(sequences), which the
        packed statistics drop; `num_blocks` sets their number for one compiled shape.

    Raises:
        InputError: no sequence, unequal features, block_size < 1, or more blocks needed than `num_blocks`.
    """
    if block_size < 1:
        raise InputError(f"block_size must be >= 1, got {block_size}")
    sequences = [np.asarray(check_tokens(s, "sequences")) for s in sequences]
    if not sequences or len({s.shape[1:] for s in sequences}) != 1:
        raise InputError("sequences must be a non-empty list of arrays (tokens, features) with equal features")
    blocks = [-(-len(s) // block_size) for s in sequences]
    total = sum(blocks) if num_blocks is None else num_blocks
    if sum(blocks) > total:
        raise InputError(f"num_blocks must be >= {sum(blocks)} for these sequences, got {num_blocks}")
    dtype = functools.reduce(jnp.promote_types, (s.dtype for s in sequences))
    tokens = np.zeros((total * block_size, sequences[0].shape[1]), dtype)
    weights = np.zeros(total * block_size, np.float32)
    segments = np.full(total, len(sequences), np.int32)
    segments[: sum(blocks)] = np.repeat(np.arange(len(sequences)), blocks)
    for start, sequence in zip(np.cumsum([0, *blocks]) * block_size, sequences):
        tokens[start : start + len(sequence)] = sequence
        weights[start : start + len(sequence)] = 1
    return tokens, segments, weights


def _segments(tokens, block_segments, num_segments: int):
    """Checked segment ids, those outside 0 … num_segments − 1 moved to num_segments, which scatters drop."""
    if is_concrete(block_segments) and not isinstance(block_segments, jax.Array):
        block_segments = host_array(block_segments, "block_segments")
    blocks = block_segments.shape[0] if block_segments.ndim == 1 else 0
    if not blocks or tokens.shape[0] % blocks:
        raise InputError(
            f"block_segments must have shape (blocks,) with blocks dividing the {tokens.shape[0]} tokens, "
            f"got {tuple(block_segments.shape)}"
        )
    if not jnp.issubdtype(block_segments.dtype, jnp.integer):
        raise TypeError(f"block_segments must be integers, got {block_segments.dtype}")
    ids = jnp.asarray(block_segments)
    return jnp.where((ids >= 0) & (ids < num_segments), ids, num_segments), blocks


def _means(values, w, ids, count):
    """Mean of every segment, (segments, features), from values in blocks."""
    sums = jax.ops.segment_sum(jnp.einsum("bk,bkd->bd", w, values, precision=HIGHEST), ids, len(count))
    return safe_ratio(sums, count[:, None])


def _spread(means, ids):
    """The mean of its segment for every block; 0 for blocks of no segment."""
    return jnp.pad(means, ((0, 1), (0, 0)))[ids][:, None]


def packed_moments(
    tokens: TokensLike,
    block_segments: ArrayLike,
    num_segments: int,
    weights: WeightsLike = None,
) -> Moments:
    """`moments` of every segment of a packed array: a `Moments` with a leading axis of `num_segments`.

    A segment without tokens has `Moments.zeros`. Blocks of other segment ids are dropped.

    Raises:
        TypeError: tokens not floating point or segment ids not integers.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights.
    """
    tokens = check_tokens(tokens, "tokens")
    x, w = prepare_tokens(tokens, weights)
    ids, blocks = _segments(tokens, block_segments, num_segments)
    x, w = x.reshape(blocks, -1, x.shape[1]), w.reshape(blocks, -1)

    count = jax.ops.segment_sum(jnp.sum(w, axis=1), ids, num_segments)

    shift = _means(x, w, ids, count)
    shift = jax.lax.stop_gradient(shift + _means(x - _spread(shift, ids), w, ids, count))  # see `weighted_mean`
    deviation = x - _spread(shift, ids)
    offset = _means(deviation, w, ids, count)

    def add(scatter, block):
        segment, y, v = block
        return scatter.at[segment].add(jnp.matmul((y * v[:, None]).T, y, precision=HIGHEST), mode="drop"), None

    empty = jnp.zeros((num_segments, x.shape[2], x.shape[2]), x.dtype)
    scatter, _ = jax.lax.scan(add, empty, (ids, deviation, w))
    scatter = scatter - count[:, None, None] * offset[:, :, None] * offset[:, None, :]
    return Moments(count, shift + offset, scatter)


def packed_projected_moment(
    tokens: TokensLike,
    block_segments: ArrayLike,
    num_segments: int,
    left: MatrixLike,
    right: MatrixLike | None = None,
    weights: WeightsLike = None,
    *,
    center: str | None = None,
) -> Float[Array, "segments rank_a rank_b"]:
    """`projected_moment` of every segment of a packed array, by flat products and one batch of small ones.

    `center` is None or "sequence"; the rest is as in `covjax.projected_moment` and `covjax.packed_moments`.

    Raises:
        TypeError: tokens not floating point or segment ids not integers.
        InputError: wrong shapes or `center`; outside `jit` also negative, non-finite or all-zero weights.
    """
    tokens, weights = check_sequence(tokens, weights, "tokens")
    left = check_projection(left, tokens.shape[1], "left")
    right = None if right is None else check_projection(right, tokens.shape[1], "right")
    if center not in (None, "sequence"):
        raise InputError(f"center must be None or 'sequence', got {center!r}")
    ids, blocks = _segments(tokens, block_segments, num_segments)
    w, keep = token_weights(tokens, weights)
    w = w.reshape(blocks, -1)
    count = jax.ops.segment_sum(jnp.sum(w, axis=1), ids, num_segments)
    sides = []
    for flat, _ in project_sides(jnp.asarray(tokens), left, right, keep):
        y = flat.reshape(blocks, -1, flat.shape[1])
        if center is not None:
            kept = keep.reshape(blocks, -1, 1)
            mean = _means(y, w, ids, count)
            mean = mean + _means(jnp.where(kept, y - _spread(mean, ids), 0), w, ids, count)  # see `weighted_mean`
            y = jnp.where(kept, y - _spread(mean, ids), 0)
        sides.append(y)
    grams = jnp.einsum("bki,bkj->bij", sides[0] * w[..., None], sides[-1], precision=HIGHEST)
    return safe_ratio(jax.ops.segment_sum(grams, ids, num_segments), count[:, None, None])
