"""Shape and value checks that all metrics share."""

import numpy as np

from covjax.errors import InputError


def check_table(truth: np.ndarray, scores: np.ndarray, counts: np.ndarray | None) -> None:
    """Raise InputError unless truth and scores are equal (n, k) tables, scores finite, counts (R, n) and >= 0."""
    if truth.ndim != 2 or truth.shape != scores.shape or not truth.size:
        raise InputError(f"scores: shape {scores.shape} must equal truth's (n >= 1, k >= 1), which is {truth.shape}")
    if not np.isfinite(scores).all():
        raise InputError(f"scores: {int((~np.isfinite(scores)).sum())} of {scores.size} values are NaN or inf")
    if counts is not None and (counts.ndim != 2 or counts.shape[1] != len(truth) or (counts < 0).any()):
        raise InputError(f"counts: shape {counts.shape} must be (resamples, {len(truth)}) with values >= 0")
