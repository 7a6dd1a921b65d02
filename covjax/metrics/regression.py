"""R², Pearson and Spearman correlation of every output."""

import numpy as np

from covjax.inputs import TableLike, by_output, check_counts, check_numbers, check_scores


def _centred(values, weights):
    mean = (weights @ values) / weights.sum(1, keepdims=True)
    return values[None] - mean[:, None]


def _varies(values, weights):
    """Whether the (resampled) values of every output differ, (R, k); their deviations from a rounded mean always do."""
    present = weights[:, :, None] > 0
    return np.where(present, values, -np.inf).max(1) > np.where(present, values, np.inf).min(1)


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

    Shape (k,), or (R, k) with `counts` (R, n). NaN where the truth is constant. A NaN in truth is refused, or with
    `missing="ignore"` left out of its output. Raises InputError for wrong shapes and values that are not finite.
    """
    return _of_numbers(_r2, truth, scores, counts, missing)


def _r2(truth, scores, w):
    size = _exponents(truth)
    truth, scores = np.ldexp(truth, -size), np.ldexp(scores, -size)
    residual = w @ (truth - scores) ** 2
    total = np.einsum("rn,rnk->rk", w, _centred(truth, w) ** 2)
    return 1 - np.divide(residual, total, out=np.full_like(total, np.nan), where=_varies(truth, w) & (total > 0))


def pearson(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Pearson correlation of every output; NaN where the truth is constant, 0 where only the prediction is.

    Shapes, missing values and errors as in `r2`. A constant prediction carries no information, so it scores 0
    instead of undefined.
    """
    return _of_numbers(_pearson, truth, scores, counts, missing)


def _pearson(truth, scores, w):
    truth, scores = (np.ldexp(values, -_exponents(values)) for values in (truth, scores))
    return _correlation(_centred(truth, w), _centred(scores, w), w, _varies(truth, w), _varies(scores, w))


def spearman(
    truth: TableLike,
    scores: TableLike,
    counts: TableLike | None = None,
    missing: str = "refuse",
) -> np.ndarray:
    """Spearman rank correlation: Pearson on mid-ranks of the (resampled) values; edge cases as in `pearson`."""
    return _of_numbers(_spearman, truth, scores, counts, missing)


def _spearman(truth, scores, w):
    ranks = [np.stack([_mid_ranks(column, w) for column in table.T], -1) for table in (truth, scores)]
    centred = [r - np.einsum("rn,rnk->rk", w, r)[:, None] / w.sum(1)[:, None, None] for r in ranks]
    return _correlation(centred[0], centred[1], w, _varies(truth, w), _varies(scores, w))


def _correlation(a, b, w, a_varies, b_varies):
    ab = np.einsum("rn,rnk,rnk->rk", w, a, b)
    aa = np.einsum("rn,rnk->rk", w, a**2)
    bb = np.einsum("rn,rnk->rk", w, b**2)
    value = np.divide(ab, np.sqrt(aa * bb), out=np.zeros_like(ab), where=a_varies & b_varies & (aa * bb > 0))
    return np.where(a_varies, value, np.nan)


def _mid_ranks(values, weights):
    """Mean rank of each value among the resampled ones, (R, n); the rank of an absent example is not used."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    start = np.searchsorted(ordered, values, side="left")
    end = np.searchsorted(ordered, values, side="right")
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
    return (below[:, start] + below[:, end] + 1) / 2
