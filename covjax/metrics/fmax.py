"""Fmax, the protein-centric measure of the CAFA challenge."""

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.metrics.check import check_table

THRESHOLDS = np.linspace(0.01, 0.99, 99)


def fmax(
    truth: Bool[np.ndarray, "n k"],
    probabilities: Float[np.ndarray, "n k"],
    counts: Int[np.ndarray, "r n"] | None = None,
) -> np.ndarray:
    """Maximum over thresholds τ = 0.01 … 0.99 of F(τ) = 2·pr·rc/(pr + rc) (Radivojac et al. 2013, equations 1-4).

    pr(τ): precision averaged over the examples with at least one prediction >= τ; rc(τ): recall averaged over all
    examples that have a label (an example without one has no recall and is left out). `counts` (R, n) gives resamples,
    shape (R,); without, a scalar array. 0 where nothing is predicted right at any threshold, NaN without any label.
    Raises InputError for wrong shapes or values that are not finite.
    """
    check_table(truth, probabilities, counts)
    weights = np.ones((1, len(truth))) if counts is None else np.asarray(counts, np.float64)
    labelled = truth.any(1)
    precision, recall, predicted = (np.zeros((len(truth), len(THRESHOLDS))) for _ in range(3))
    for t, threshold in enumerate(THRESHOLDS):
        called = probabilities >= threshold
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
