"""A metric of every output on the rows that the output has."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from covjax.inputs import patterns


def by_output(
    metric: Callable[..., np.ndarray],
    truth: np.ndarray,
    scores: np.ndarray,
    counts: Float[np.ndarray, "r n"] | None,
    present: Bool[np.ndarray, "n k"] | None,
) -> Float[np.ndarray, "*r k"]:
    """`metric(truth, scores, counts)`, outputs with the same present rows together; NaN for one that has no row."""
    if present is None:
        return metric(truth, scores, counts)
    out = np.full((*([] if counts is None else [len(counts)]), truth.shape[1]), np.nan)
    for rows, columns in patterns(present):
        if rows.any():
            part = truth[rows][:, columns], scores[rows][:, columns]
            out[..., columns] = metric(*part, None if counts is None else counts[:, rows])
    return out
