"""R², Pearson and Spearman correlation of every output."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from covjax.inputs import TableLike, by_output, check_counts, check_numbers, check_scores


def _exponents(values):
    """The power of two of the largest value of every column: divided by it, squares neither overflow nor vanish."""
    return np.frexp(np.abs(values).max(0))[1]


def _of_numbers(metric, truth, scores, counts, missing):
    """`metric(truth, scores, weights)`, weights (R, n) being ones for no counts, on checked arrays."""

    def weighted(truth, scores, counts):
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without any row of an output: NaN
            value = metric(truth, scores, np.ones((1, len(truth))) if counts is None else counts)
        return value[0] if counts is None else value

    truth, present = check_numbers(truth, "truth", missing)
    scores = check_scores(scores, truth.shape).astype(np.float64)
    return by_output(weighted, truth, scores, check_counts(counts, len(truth)), present)


def r2(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Coefficient of determination 1 − Σ(y − ŷ)²/Σ(y − ȳ)² of every output, ȳ the mean of the (resampled) truth.

    Shape (k,), or (R, k) with `counts` (R, n). NaN if the truth is constant. A NaN in truth is refused, or left
    out of its output with `missing="ignore"`. Raises InputError for wrong shapes and values that are not finite.
    """
    return _of_numbers(_r2, truth, scores, counts, missing)


def _r2(truth, scores, w):
    size = _exponents(truth)
    truth, scores = np.ldexp(truth, -size), np.ldexp(scores, -size)
    residual = w @ (truth - scores) ** 2
    total, varies = _products(truth, truth, w)
    return 1 - np.divide(residual, total, out=np.full_like(total, np.nan), where=varies & (total > 0))


CANCELS = 1e-3  # a sum of squares that is a smaller part of the uncentred one is computed again from deviations


def _products(a, b, w):
    """Σ w (a − ā)(b − b̄) of every resample and output, ā and b̄ the resample's means, and whether a varies: (R, k).

    Matrix products of counts with values, squares and products: no (resamples, rows, outputs) array. Values are first
    centred on all rows. Where a resample's own mean still takes digits, and where its values may all be equal, the sum
    is taken again from that resample's deviations.
    """
    near_a, near_b = a - a.mean(0), b - b.mean(0)
    rows = w.sum(1)[:, None]
    sum_a, sum_b, raw_a, raw_b = w @ near_a, w @ near_b, w @ near_a**2, w @ near_b**2
    total = w @ (near_a * near_b) - sum_a * sum_b / rows
    varies = np.repeat(rows > 0, a.shape[1], axis=1)
    doubtful = (raw_a - sum_a**2 / rows <= CANCELS * raw_a) | (raw_b - sum_b**2 / rows <= CANCELS * raw_b)
    for j in np.flatnonzero(doubtful.any(0)):
        resamples = np.flatnonzero(doubtful[:, j])
        for chosen in np.split(resamples, range(BLOCK, len(resamples), BLOCK)):
            part = w[chosen]
            deviations = [values[:, j] - (part @ values[:, j] / part.sum(1))[:, None] for values in (a, b)]
            total[chosen, j] = np.einsum("rn,rn,rn->r", part, *deviations)
            varies[chosen, j] = _varies(a[:, j], part)
    return total, varies


BLOCK = 64  # resamples at a time where every row's number differs between resamples


def _varies(values, weights):
    """Whether the resampled values (n,) differ, (R,); their deviations from a rounded mean always do."""
    present = weights > 0
    return np.where(present, values, -np.inf).max(1) > np.where(present, values, np.inf).min(1)


def pearson(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Pearson correlation of every output; NaN if the truth is constant, 0 if only the prediction is.

    Shapes, missing values and errors as in `r2`. A constant prediction has no information, so it scores 0
    and is not undefined.
    """
    return _of_numbers(_pearson, truth, scores, counts, missing)


def _pearson(truth, scores, w):
    truth, scores = (np.ldexp(values, -_exponents(values)) for values in (truth, scores))
    (truths, truth_varies), (predictions, prediction_varies) = (_products(x, x, w) for x in (truth, scores))
    return _correlation(_products(truth, scores, w)[0], truths, predictions, truth_varies, prediction_varies)


def _correlation(ab, aa, bb, a_varies, b_varies):
    value = np.divide(ab, np.sqrt(aa * bb), out=np.zeros_like(ab), where=a_varies & b_varies & (aa * bb > 0))
    return np.where(a_varies, value, np.nan)


def spearman(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Spearman rank correlation: Pearson on mid-ranks of the (resampled) values; edge cases as in `pearson`."""
    return _of_numbers(_spearman, truth, scores, counts, missing)


ROWS = 16  # resamples at a time: their running sums over thousands of rows stay in the cache


def _spearman(truth, scores, w):
    """Everything in doubled ranks less the doubled mean rank: whole numbers, so sums over them are exact."""
    orders = [[_Order(column) for column in table.T] for table in (truth, scores)]
    out = np.empty((len(w), truth.shape[1]))

    def block(start: int) -> None:
        weights = np.ascontiguousarray(w[start : start + ROWS].T)  # (n, resamples): gathering moves whole rows
        for j, (one, other) in enumerate(zip(*orders)):
            (_, a, aa), (ordered, b, bb) = one.ranks(weights), other.ranks(weights)
            ordered *= a[one.run[other.order]]  # in the order of the other, whose ranks then need no gathering
            ab = np.einsum("nr,nr->r", other.by_run(ordered), b)
            out[start : start + ROWS, j] = _correlation(ab, aa, bb, aa > 0, bb > 0)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(block, range(0, len(w), ROWS)))
    return out


class _Order:
    """The ascending order of values (n,), where its runs of equal values begin and end, and the run of each value."""

    def __init__(self, values):
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        first = np.append(True, ordered[1:] != ordered[:-1])
        self.run = np.empty(len(values), int)
        self.run[self.order] = np.cumsum(first) - 1
        self.edges = np.append(np.flatnonzero(first), len(values))
        self.distinct = len(self.edges) == len(values) + 1

    def ranks(self, weights):
        """Weights (n, R) in order; of every run its mid-rank, doubled, less N + 1 of N resampled rows; Σ of squares."""
        ordered = weights[self.order]
        below = np.zeros((len(weights) + 1, weights.shape[1]))
        np.cumsum(ordered, axis=0, out=below[1:])
        if not self.distinct:
            below = below[self.edges]
        ranks = below[1:] + below[:-1]
        ranks -= below[-1]
        sizes = ordered if self.distinct else np.diff(below, axis=0)
        return ordered, ranks, np.einsum("nr,nr->r", sizes * ranks, ranks)

    def by_run(self, ordered):
        """Sums over runs of ordered values."""
        return ordered if self.distinct else np.add.reduceat(ordered, self.edges[:-1], axis=0)
