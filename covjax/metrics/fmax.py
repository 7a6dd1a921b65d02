"""Fmax, the protein-centric measure of the CAFA challenge."""

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.inputs import check_counts, check_labels, check_scores

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
