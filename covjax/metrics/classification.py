"""Accuracy and Matthews correlation of single-label predictions."""

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.inputs import check_classes, check_counts, check_scores


def _confusion(truth, scores, counts, missing):
    truth, present = check_classes(truth, "truth", missing)
    scores, counts = check_scores(scores, truth.shape), check_counts(counts, len(truth))
    classes = truth.shape[1]
    weights = np.ones((1, len(truth))) if counts is None else counts
    if present is not None:
        weights = weights * present.any(1)
    cell = truth.argmax(1) * classes + scores.argmax(1)
    table = weights @ np.eye(classes * classes)[cell]
    return table.reshape(-1, classes, classes)


def accuracy(
    truth: Bool[np.ndarray, "n k"],
    scores: Float[np.ndarray, "n k"],
    counts: Int[np.ndarray, "r n"] | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Share of examples whose highest score is at the true class; truth one-hot. Ties go to the first class.

    `counts` (R, n) gives resamples, shape (R,); without, a scalar array. NaN where no example is present. Rows of truth
    that are all NaN are refused, or left out by `missing="ignore"`. Raises InputError for wrong shapes, scores that are
    not finite, and rows of truth that are not one-hot, class numbers among them.
    """
    table = _confusion(truth, scores, counts, missing)
    with np.errstate(invalid="ignore"):
        value = np.trace(table, axis1=1, axis2=2) / table.sum((1, 2))
    return value[0] if counts is None else value


def matthews(
    truth: Bool[np.ndarray, "n k"],
    scores: Float[np.ndarray, "n k"],
    counts: Int[np.ndarray, "r n"] | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Multi-class Matthews correlation R_K (Gorodkin 2004); 0 where prediction or truth is constant.

    Shapes, missing rows and errors as in `accuracy`.
    """
    table = _confusion(truth, scores, counts, missing)
    n = table.sum((1, 2))
    true, predicted = table.sum(2), table.sum(1)
    covariance = n * np.trace(table, axis1=1, axis2=2) - (true * predicted).sum(1)
    scale = np.sqrt((n**2 - (true**2).sum(1)) * (n**2 - (predicted**2).sum(1)))
    value = np.where(scale > 0, covariance / np.where(scale > 0, scale, 1), np.where(n > 0, 0.0, np.nan))
    return value[0] if counts is None else value
