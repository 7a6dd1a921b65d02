"""Sequences of many lengths through an encoder in few compiled shapes and little padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder, pad_rows
from covjax.encoders.rows import plan_rows
from covjax.errors import InputError


def embed(
    encoder: Encoder,
    sequences: Sequence[str],
    layers: tuple[int, ...],
    token_budget: int = 16384,
    max_shapes: int = 4,
    edges: Sequence[int] | None = None,
    max_segments: int = 1,
) -> Iterator[tuple[Int[np.ndarray, "rows"], dict[int, Float[Array, "b t d"]], Bool[np.ndarray, "b t"]]]:
    """Yield (row numbers, {layer: activations}, mask to pool) batch by batch, shortest sequences first.

    Every batch of a bucket has the same shape: b = token_budget // t sequences, at least one. The last batch of a
    bucket is filled with copies of its first sequence under an all-zero pool mask: `rows` is then shorter than b.
    Nothing is cropped; the longest sequence sets the last bucket. `edges`, ascending token numbers, sets the buckets,
    which keeps the shapes the same over several calls.

    With `max_segments` > 1 an encoder that can (`packs`) gets up to so many sequences in a row of the batch; such a
    batch is yielded once for every place in the row, the same activations under the mask of other sequences.

    Raises InputError for no sequences or one longer than the last of `edges`, and whatever `encoder.encode` raises.
    """
    if not len(sequences):
        raise InputError("sequences: empty; at least one is needed")
    encoded = [encoder.encode(sequence) for sequence in sequences]
    lengths = np.array([len(ids) for ids in encoded])
    edges = bucket_edges(lengths, max_shapes) if edges is None else edges
    packs = max_segments > 1 and getattr(encoder, "packs", False)
    for edge, planned in plan_rows(lengths, edges, max_segments if packs else 1).items():
        size = max(1, token_budget // int(edge))
        for first in range(0, len(planned), size):
            batch = planned[first : first + size]
            full = batch + batch[:1] * (size - len(batch))
            if packs:
                yield from _packed(encoder, encoded, batch, full, int(edge), layers)
                continue
            rows = np.array([row[0] for row in batch])
            tokens, mask, pool = encoder.pad([encoded[row[0]] for row in full], int(edge))
            pool[len(rows) :] = False
            yield rows, encoder.apply(tokens, mask, layers), pool


def _packed(
    encoder: Encoder,
    encoded: Sequence[Int[np.ndarray, "t"]],
    batch: list[list[int]],
    full: list[list[int]],
    edge: int,
    layers: tuple[int, ...],
) -> Iterator[tuple[Int[np.ndarray, "rows"], dict[int, Float[Array, "b t d"]], Bool[np.ndarray, "b t"]]]:
    tokens, _, pool = encoder.pad([np.concatenate([encoded[i] for i in row]) for row in full], edge)
    segments, _ = pad_rows(
        [np.repeat(np.arange(1, len(row) + 1), [len(encoded[i]) for i in row]) for row in full], tokens.shape[1], 0
    )
    found = encoder.apply(tokens, segments, layers)
    pool[len(batch) :] = False
    for place in range(len(batch[0])):  # rows of more sequences come first, so these are the first rows of the batch
        rows = np.array([row[place] for row in batch if len(row) > place])
        yield rows, found, pool & (segments == place + 1)


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
