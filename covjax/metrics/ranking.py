"""Area under the ROC curve and average precision for many labels at once, ties exact, resamples by counts."""

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax.metrics.check import check_table

Counts = Int[np.ndarray, "resamples n"]


def auroc(
    truth: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Counts | None = None
) -> Float[np.ndarray, "*resamples k"]:
    """AUROC of every label: the share of (positive, negative) pairs in the right order, a tie counting one half.

    Equals the Mann-Whitney statistic U/(P·N) (Hanley & McNeil 1982). With `counts` (R, n), row r is the value on the
    resample in which example i stands counts[r, i] times, shape (R, k); without, shape (k,).
    NaN for a label with one class only. Raises InputError for wrong shapes or scores that are not finite.
    """
    check_table(truth, scores, counts)
    return _per_label(truth, scores, counts, _auroc_sorted)


def average_precision(
    truth: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Counts | None = None
) -> Float[np.ndarray, "*resamples k"]:
    """Average precision of every label: Σ (R_j − R_{j−1}) P_j over thresholds at distinct scores, no interpolation.

    The estimate of the area under the precision-recall curve that scikit-learn uses. Shapes as in `auroc`. NaN for a
    label without positives. Raises InputError for wrong shapes or scores that are not finite.
    """
    check_table(truth, scores, counts)
    return _per_label(truth, scores, counts, _average_precision_sorted)


def _per_label(truth, scores, counts, metric):
    weights = np.ones((1, len(truth))) if counts is None else np.asarray(counts, np.float64)
    out = np.empty((len(weights), truth.shape[1]))
    for j in range(truth.shape[1]):
        order = np.argsort(-scores[:, j], kind="stable")
        score = scores[order, j]
        last = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)  # last place of each run of ties
        w = weights[:, order]
        hits = np.cumsum(w * truth[order, j], axis=1)[:, last]
        total = np.cumsum(w, axis=1)[:, last]
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, j] = metric(hits, total - hits)
    return out[0] if counts is None else out


def _steps(cumulative: Float[np.ndarray, "r t"]) -> Float[np.ndarray, "r t"]:
    return np.diff(cumulative, axis=1, prepend=0)


def _auroc_sorted(tp: Float[np.ndarray, "r t"], fp: Float[np.ndarray, "r t"]) -> Float[np.ndarray, "r"]:
    # Trapezium over each run of ties: its positives beat all later negatives and half of those in the run.
    later = fp[:, -1:] - fp
    wins = (_steps(tp) * (later + 0.5 * _steps(fp))).sum(1)
    return wins / (tp[:, -1] * fp[:, -1])


def _average_precision_sorted(tp: Float[np.ndarray, "r t"], fp: Float[np.ndarray, "r t"]) -> Float[np.ndarray, "r"]:
    precision = tp / np.maximum(tp + fp, 1e-300)  # 0/0 before the first resampled example carries no step
    return (_steps(tp) * precision).sum(1) / tp[:, -1]
