"""Metrics of classes: accuracy, Matthews correlation and Fmax."""

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.inputs import check_classes, check_counts, check_labels, check_scores


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


THRESHOLDS = np.arange(1, 100) / 100  # the numbers nearest to the decimals, which a score of 0.35 is too


def fmax(
    truth: Bool[np.ndarray, "n k"],
    probabilities: Float[np.ndarray, "n k"],
    counts: Int[np.ndarray, "r n"] | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Maximum over thresholds τ = 0.01 … 0.99 of F(τ) = 2·pr·rc/(pr + rc) (Radivojac et al. 2013, equations 1-4).

    pr(τ): precision averaged over the examples with at least one prediction >= τ; rc(τ): recall averaged over all
    examples that have a label (an example without one has no recall and is left out). The thresholds are decimals in
    the scores' own type: a score of 0.35, float32 or wider, passes 0.35. `counts` (R, n) gives resamples, shape (R,);
    without, a scalar array. 0 where nothing is predicted right at any threshold, NaN without any label.

    A label that is NaN in truth is refused; `missing="ignore"` counts it as neither true nor predicted.
    Raises InputError for labels other than 0 and 1, wrong shapes or values that are not finite.
    """
    truth, present = check_labels(truth, "truth", missing)
    probabilities = check_scores(probabilities, truth.shape, "probabilities")
    counts = check_counts(counts, len(truth))
    weights = np.ones((1, len(truth))) if counts is None else counts
    labelled = truth.any(1)
    precision, recall, predicted = (np.zeros((len(truth), len(THRESHOLDS))) for _ in range(3))
    for t, threshold in enumerate(THRESHOLDS.astype(probabilities.dtype)):
        called = probabilities >= threshold
        if present is not None:
            called &= present
        right = (called & truth).sum(1)
        predicted[:, t] = called.any(1)
        precision[:, t] = right / np.maximum(called.sum(1), 1)
        recall[:, t] = right / np.maximum(truth.sum(1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        pr = np.nan_to_num((weights @ precision) / (weights @ predicted))
        rc = (weights @ recall) / (weights @ labelled)[:, None]
        best = np.nan_to_num(2 * pr * rc / (pr + rc)).max(1)
    best[weights @ labelled == 0] = np.nan
    return best[0] if counts is None else best
