"""Sequences of many lengths through an encoder in few compiled shapes and little padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder
from covjax.errors import InputError


def embed(
    encoder: Encoder,
    sequences: Sequence[str],
    layers: tuple[int, ...],
    token_budget: int = 16384,
    max_shapes: int = 4,
    edges: Sequence[int] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "rows"], dict[int, Float[Array, "b t d"]], Bool[np.ndarray, "b t"]]]:
    """Yield (row numbers, {layer: activations}, mask to pool) batch by batch, shortest sequences first.

    Every batch of a bucket has the same shape: b = token_budget // t sequences, at least one. The last batch of a
    bucket is filled with copies of its first sequence under an all-zero pool mask: `rows` is then shorter than b.
    Nothing is cropped; the longest sequence sets the last bucket. `edges`, ascending token numbers, sets the buckets,
    which keeps the shapes the same over several calls.

    Raises InputError for no sequences or one longer than the last of `edges`, and whatever `encoder.encode` raises.
    """
    if not len(sequences):
        raise InputError("sequences: empty; at least one is needed")
    encoded = [encoder.encode(sequence) for sequence in sequences]
    lengths = np.array([len(ids) for ids in encoded])
    order = np.argsort(lengths, kind="stable")
    edges = bucket_edges(lengths, max_shapes) if edges is None else edges
    if lengths.max() > edges[-1]:
        raise InputError(
            f"edges: the last is {edges[-1]}, shorter than the longest sequence with {lengths.max()} tokens"
        )
    start = 0
    for edge in edges:
        stop = int(np.searchsorted(lengths[order], edge, side="right"))
        size = max(1, token_budget // int(edge))
        for first in range(start, stop, size):
            rows = order[first : min(first + size, stop)]
            chosen = [encoded[i] for i in rows]
            tokens, mask, pool = encoder.pad(chosen + chosen[:1] * (size - len(rows)), int(edge))
            pool[len(rows) :] = False
            yield rows, encoder.apply(tokens, mask, layers), pool
        start = stop


def bucket_edges(lengths: Int[np.ndarray, "n"], max_shapes: int) -> list[int]:
    """Upper edges of at most `max_shapes` length buckets with the fewest padded tokens in total (exact, by DP)."""
    edges, counts = np.unique(lengths, return_counts=True)
    if len(edges) > 512:  # a coarser grid keeps the quadratic search below a second; edges stay real lengths
        edges = np.unique(edges[np.linspace(0, len(edges) - 1, 512).round().astype(int)])
        counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
    below = np.concatenate([[0], np.cumsum(counts)])
    cost = np.full(len(edges) + 1, np.inf)
    cost[0] = 0
    choices = []
    for _ in range(min(max_shapes, len(edges))):
        # candidate[i, j]: buckets so far cover the first i edges, the next one edges i … j−1 at length edges[j−1]
        candidate = cost[:, None] + (below[None, :] - below[:, None]) * np.concatenate([[0], edges])[None, :]
        candidate[np.arange(len(cost))[:, None] > np.arange(len(cost))[None, :]] = np.inf
        choices.append(candidate.argmin(0))
        cost = candidate.min(0)
    end, picked = len(edges), []
    for choice in reversed(choices):
        if end > choice[end]:
            picked.append(int(edges[end - 1]))
        end = int(choice[end])
    return picked[::-1]
