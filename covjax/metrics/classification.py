"""Metrics of classes and labels: accuracy, Matthews correlation, Fmax, area under the ROC curve, average precision."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from covjax.inputs import TableLike, by_output, check_classes, check_counts, check_labels, check_scores

Value = Float[np.ndarray, "resamples"] | np.float64


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
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> Value:
    """Share of examples whose highest score is that of the true class; truth one-hot. Ties go to the first class.

    With `counts` (R, n) the result has one value per resample, shape (R,); without it, it is one number. NaN if no
    example is present. Rows of truth that are all NaN are refused, or left out by `missing="ignore"`. Raises InputError
    for wrong shapes, scores that are not finite, and truth that is not one-hot (class numbers, for example).
    """
    table = _confusion(truth, scores, counts, missing)
    with np.errstate(invalid="ignore"):
        value = np.trace(table, axis1=1, axis2=2) / table.sum((1, 2))
    return value[0] if counts is None else value


def matthews(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> Value:
    """Multi-class Matthews correlation R_K (Gorodkin 2004); 0 if the prediction or the truth is constant.

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
    truth: TableLike,
    probabilities: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> Value:
    """Maximum over thresholds τ = 0.01 … 0.99 of F(τ) = 2·pr·rc/(pr + rc) (Radivojac et al. 2013, equations 1-4).

    pr(τ): precision averaged over the examples with at least one prediction >= τ; rc(τ): recall averaged over all
    examples that have a label (an example without one has no recall and is left out). The thresholds are decimals in
    the scores' own type: a score of 0.35, float32 or wider, passes 0.35. With `counts` (R, n) the result has one value
    per resample, shape (R,). It is 0 if nothing is predicted right at any threshold, and NaN without any label.

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


def auroc(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> Float[np.ndarray, "*resamples k"]:
    """AUROC of every label: the share of (positive, negative) pairs in the right order; a tie counts one half.

    It equals the Mann-Whitney statistic U/(P·N) (Hanley & McNeil 1982). The result has shape (k,). With `counts` (R, n)
    it has shape (R, k): row r is the value on the resample in which example i occurs counts[r, i] times.
    NaN for a label with one class only. Truth is 0 and 1, or booleans. NaN is refused, or left out of its label with
    `missing="ignore"`. Raises InputError for other values, wrong shapes or scores that are not finite.
    """
    return _ranked(truth, scores, counts, missing, _auroc, _auroc_runs)


def average_precision(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> Float[np.ndarray, "*resamples k"]:
    """Average precision of every label: Σ (R_j − R_{j−1}) P_j over thresholds at distinct scores, no interpolation.

    This is scikit-learn's estimate of the area under the precision-recall curve. Shapes as in `auroc`. NaN for a
    label without positives. Missing labels and errors as in `auroc`.
    """
    return _ranked(truth, scores, counts, missing, _average_precision, _average_precision_runs)


def _ranked(truth, scores, counts, missing, whole, resampled):
    def metric(truth, scores, counts):
        return _by_label(truth, scores, whole) if counts is None else _per_label(truth, scores, counts, resampled)

    truth, present = check_labels(truth, "truth", missing)
    return by_output(metric, truth, check_scores(scores, truth.shape), check_counts(counts, len(truth)), present)


LABELS = 64  # sorted at a time: their scores stay in the cache between the transposition, the sort and the lookups


def _by_label(truth, scores, metric) -> Float[np.ndarray, "k"]:
    """`metric(all scores, those of the positives)`, both ascending, of every label that has a positive, else NaN.

    NumPy sorts rows with vector instructions, unlike an argsort; then only the positives, few of many, are looked up.
    Blocks of labels run in threads: what takes the time does not hold the interpreter's lock.
    """
    out = np.full(truth.shape[1], np.nan)

    def block(start: int) -> None:
        columns = np.array(scores[:, start : start + LABELS].T, order="C")  # a copy: it is sorted in place
        positive = np.ascontiguousarray(truth[:, start : start + LABELS].T)
        chosen = [column[mask] for column, mask in zip(columns, positive)]
        columns.sort(axis=1)
        for j, (ordered, own) in enumerate(zip(columns, chosen), start):
            if len(own):
                own.sort()
                out[j] = metric(ordered, own)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(block, range(0, truth.shape[1], LABELS)))
    return out


def _auroc(ordered, positives) -> float:
    p, n = len(positives), len(ordered)
    if p == n:
        return np.nan
    # Every positive beats those below it and half of those equal to it; among themselves that makes p²/2.
    below = np.searchsorted(ordered, positives, "left").sum() + np.searchsorted(ordered, positives, "right").sum()
    return (below / 2 - p * p / 2) / (p * (n - p))


def _average_precision(ordered, positives) -> float:
    # At the threshold of each positive: positives called, over all called.
    called = len(positives) - np.searchsorted(positives, positives, "left")
    return (called / (len(ordered) - np.searchsorted(ordered, positives, "left"))).mean()


def _per_label(truth, scores, counts, metric):
    # (n, resamples) layout: sorting and running sums then move whole contiguous rows.
    # The smallest whole numbers that hold their sums: as much less memory to move.
    most = counts.sum(1).max()
    kinds = [kind for kind in (np.int16, np.int32) if most <= np.iinfo(kind).max]
    weights = np.ascontiguousarray(counts.T, kinds[0] if kinds else np.float64)
    out = np.full((weights.shape[1], truth.shape[1]), np.nan)
    for j in range(truth.shape[1]):
        order = np.argsort(-scores[:, j], kind="stable")
        positive = truth[order, j]
        if positive.any():
            with np.errstate(invalid="ignore", divide="ignore"):
                out[:, j] = metric(*_runs(scores[order, j], positive, weights[order]))
    return out


def _runs(score, positive, w):
    """For every run of tied scores that holds a positive, shapes (runs, resamples), and for all, (resamples,).

    Returns the positives within the run, those up to its end, all examples up to its start and its end, and the total.
    Runs without positives move neither metric, so only their examples' running sum is kept.
    """
    first = np.flatnonzero(np.append(True, score[1:] != score[:-1]))
    run = np.searchsorted(first, np.flatnonzero(positive), side="right") - 1
    run, where = np.unique(run, return_index=True)
    within = w[positive]
    if len(run) < len(within):  # several positives of one score
        within = np.add.reduceat(within, where, axis=0)
    up_to = _running_sums(w)
    end = np.append(first[1:], len(score))
    return within, within.cumsum(0), up_to(first[run]), up_to(end[run]), up_to(np.array(len(w)))


def _running_sums(w):
    """A function of places: the sums of the rows before them.

    Rows are added up within about √n blocks of as many rows, all blocks at once; to these sums a place adds those of
    the whole blocks before its own. NumPy's `cumsum` of all rows takes seven times as long along this axis.
    """
    size = math.isqrt(len(w)) + 1
    blocks = len(w) // size + 1
    inner = np.zeros((blocks, size, w.shape[1]), w.dtype)
    rows = inner.reshape(-1, w.shape[1])
    rows[1 : len(w) + 1] = w
    for before, row in zip(inner.swapaxes(0, 1), inner.swapaxes(0, 1)[1:]):
        row += before
    earlier = np.zeros((blocks, w.shape[1]), w.dtype)
    np.cumsum(inner[:-1, -1], axis=0, out=earlier[1:])
    return lambda places: rows[places] + earlier[places // size]


def _auroc_runs(within, up_to_end, start, end, total) -> Float[np.ndarray, "resamples"]:
    # A positive beats the negatives after its run and half of those in it.
    positives = up_to_end[-1].astype(np.float64)  # its product with the negatives may be beyond whole numbers
    negatives = total - positives
    after = negatives - (end - up_to_end)
    tied = (end - start) - within
    return (within * (after + 0.5 * tied)).sum(0) / (positives * negatives)


def _average_precision_runs(within, up_to_end, start, end, total) -> Float[np.ndarray, "resamples"]:
    precision = up_to_end / np.maximum(end, 1e-300)  # 0/0 before the first resampled example carries no step
    return (within * precision).sum(0) / up_to_end[-1]
