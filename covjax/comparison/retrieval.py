"""Retrieval without labels: validation and test sequences as queries, the training sequences ranked by cosine.

The gallery is the training sequences: the vectors' mean, which is subtracted, is theirs, and a near copy of a query is
never among them, for groups lie on one side of the split. Labels only say what is relevant: a training sequence that
shares the query's class, or one of its labels.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.embedding.tables import Table
from covjax.inputs import exact_mean
from covjax.metrics import average_precision

DEPTHS = (1, 5, 10)
BLOCK = 256  # queries ranked at a time


def recall_at(
    similarity: Float[np.ndarray, "q g"], relevant: Bool[np.ndarray, "q g"], depth: int
) -> Float[np.ndarray, "q"]:
    """Whether one of the `depth` most similar items is relevant, 0 or 1; with ties the mean over their orders.

    A gallery of fewer items is taken whole. NaN for a query without a relevant item.
    """
    depth = min(depth, similarity.shape[1])
    last = np.partition(similarity, -depth, axis=1)[:, -depth, None]
    above, tied = similarity > last, similarity == last
    places, ties = depth - above.sum(1), tied.sum(1)
    misses = ties - (tied & relevant).sum(1)
    miss = 1.0 - (above & relevant).any(1)  # chance that none of the first `depth` is relevant
    for drawn in range(depth):  # the places left are drawn from the ties without replacement
        share = np.maximum(misses - drawn, 0) / np.maximum(ties - drawn, 1)
        miss = np.where(drawn < places, miss * share, miss)
    return np.where(relevant.any(1), 1 - miss, np.nan)


def similarity_blocks(
    table: Table, train: Int[np.ndarray, "g"]
) -> Callable[[Int[np.ndarray, "q"]], Float[np.ndarray, "q g"]]:
    """A function from rows of the table to their cosines with the training rows, all less the training rows' mean.

    Each row's cosines lack its own length, a factor that moves no rank and that a kernel does not hold. They are 0 with
    a training row that is the mean. Summed in float64 and rounded to float32, as the vectors are, so that equal
    vectors tie.
    """
    known = table.values[train]
    if table.is_kernel:
        columns = known.mean(0, dtype=np.float64)
        squares = np.diagonal(known) - 2 * columns + columns.mean()
        noise = float(np.finfo(np.float32).eps) * float(np.abs(known).max())
        scale = np.where(squares > noise, 1 / np.sqrt(np.maximum(squares, noise or 1.0)), 0)

        def cosines(rows: Int[np.ndarray, "q"]) -> Float[np.ndarray, "q g"]:
            block = table.values[rows].astype(np.float64)
            block -= block.mean(1, keepdims=True) + columns - columns.mean()
            return (block * scale).astype(np.float32)

        return cosines

    centre = exact_mean(known.astype(np.float64))
    gallery = known - centre
    gallery /= np.maximum(np.linalg.norm(gallery, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return lambda rows: ((table.values[rows] - centre) @ gallery.T).astype(np.float32)


def query_scores(
    table: Table, targets: Bool[np.ndarray, "n k"], train: Int[np.ndarray, "g"], queries: Int[np.ndarray, "q"]
) -> Float[np.ndarray, "q metrics"]:
    """Average precision, and recall at `DEPTHS`, of every query over the training rows, in float64.

    NaN for a query that shares no label with a training row. Tied items stand at one threshold of the average
    precision (`covjax.metrics.average_precision`), so their order does not count.
    """
    cosines, known = similarity_blocks(table, train), targets[train].astype(np.float32)
    parts = []
    for start in range(0, len(queries), BLOCK):
        rows = queries[start : start + BLOCK]
        similarity, relevant = cosines(rows), targets[rows] @ known.T > 0
        precision = average_precision(relevant.T, similarity.T)
        parts.append(np.stack([precision, *(recall_at(similarity, relevant, depth) for depth in DEPTHS)], axis=1))
    return np.concatenate(parts)


def _column_mean(
    column: int,
    truth: Bool[np.ndarray, "q k"],
    scores: Float[np.ndarray, "q metrics"],
    counts: Int[np.ndarray, "resamples q"] | None = None,
) -> Float[np.ndarray, "resamples"] | np.float64:
    values = scores[:, column]
    defined = ~np.isnan(values)
    weights = np.ones((1, len(values))) if counts is None else counts
    total = weights @ defined
    means = weights @ np.where(defined, values, 0) / np.where(total == 0, np.nan, total)
    return means[0] if counts is None else means


# Metrics as a task has them, of `query_scores`: the mean over queries, those without a relevant item left out.
METRICS: dict[str, tuple[str, Callable[..., Any]]] = {
    "map": ("mAP", functools.partial(_column_mean, 0)),
    **{f"recall_{k}": (f"recall@{k}", functools.partial(_column_mean, i)) for i, k in enumerate(DEPTHS, 1)},
}


def unanswerable(targets: Bool[np.ndarray, "n k"], train: Int[np.ndarray, "g"], queries: Int[np.ndarray, "q"]) -> int:
    """How many queries share no label with any training row."""
    return int((targets[queries] @ targets[train].sum(0) == 0).sum())
