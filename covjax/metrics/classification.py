"""Accuracy and Matthews correlation of single-label predictions."""

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.metrics.check import check_table


def _confusion(truth, scores, counts):
    check_table(truth, scores, counts)
    classes = truth.shape[1]
    weights = np.ones((1, len(truth))) if counts is None else np.asarray(counts, np.float64)
    cell = truth.argmax(1) * classes + scores.argmax(1)
    table = weights @ np.eye(classes * classes)[cell]
    return table.reshape(-1, classes, classes)


def accuracy(
    truth: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Int[np.ndarray, "r n"] | None = None
) -> np.ndarray:
    """Share of examples whose highest score is at the true class; truth one-hot. Ties go to the first class.

    `counts` (R, n) gives resamples, shape (R,); without, a scalar array. Raises InputError for wrong shapes.
    """
    table = _confusion(truth, scores, counts)
    value = np.trace(table, axis1=1, axis2=2) / table.sum((1, 2))
    return value[0] if counts is None else value


def matthews(
    truth: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Int[np.ndarray, "r n"] | None = None
) -> np.ndarray:
    """Multi-class Matthews correlation R_K (Gorodkin 2004); 0 where prediction or truth is constant.

    Shapes and errors as in `accuracy`.
    """
    table = _confusion(truth, scores, counts)
    n = table.sum((1, 2))
    true, predicted = table.sum(2), table.sum(1)
    covariance = n * np.trace(table, axis1=1, axis2=2) - (true * predicted).sum(1)
    scale = np.sqrt((n**2 - (true**2).sum(1)) * (n**2 - (predicted**2).sum(1)))
    value = np.where(scale > 0, covariance / np.where(scale > 0, scale, 1), 0.0)
    return value[0] if counts is None else value
