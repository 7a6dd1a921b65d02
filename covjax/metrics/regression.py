"""R², Pearson and Spearman correlation of every output."""

import numpy as np
from jaxtyping import Float, Int

from covjax.metrics.check import check_table


def _centred(values, weights):
    mean = (weights @ values) / weights.sum(1, keepdims=True)
    return values[None] - mean[:, None]


def _varies(values, weights):
    """Whether the (resampled) values of every output differ, (R, k); their deviations from a rounded mean always do."""
    present = weights[:, :, None] > 0
    return np.where(present, values, -np.inf).max(1) > np.where(present, values, np.inf).min(1)


def _weights(truth, counts):
    return np.ones((1, len(truth))) if counts is None else np.asarray(counts, np.float64)


def r2(
    truth: Float[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Int[np.ndarray, "r n"] | None = None
) -> np.ndarray:
    """Coefficient of determination 1 − Σ(y − ŷ)²/Σ(y − ȳ)² of every output, ȳ the mean of the (resampled) truth.

    Shape (k,), or (R, k) with `counts` (R, n). NaN where the truth is constant. Raises InputError for wrong shapes.
    """
    check_table(truth, scores, counts)
    w = _weights(truth, counts)
    residual = w @ (truth - scores) ** 2
    total = np.einsum("rn,rnk->rk", w, _centred(truth, w) ** 2)
    value = 1 - np.divide(residual, total, out=np.full_like(total, np.nan), where=_varies(truth, w) & (total > 0))
    return value[0] if counts is None else value


def pearson(
    truth: Float[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Int[np.ndarray, "r n"] | None = None
) -> np.ndarray:
    """Pearson correlation of every output; NaN where the truth is constant, 0 where only the prediction is.

    Shapes and errors as in `r2`. A constant prediction carries no information, so it scores 0 instead of undefined.
    """
    check_table(truth, scores, counts)
    w = _weights(truth, counts)
    varies = _varies(truth, w), _varies(scores, w)
    value = _correlation(_centred(truth, w), _centred(scores, w), w, *varies)
    return value[0] if counts is None else value


def spearman(
    truth: Float[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"], counts: Int[np.ndarray, "r n"] | None = None
) -> np.ndarray:
    """Spearman rank correlation: Pearson on mid-ranks of the (resampled) values; edge cases as in `pearson`."""
    check_table(truth, scores, counts)
    w = _weights(truth, counts)
    ranks = [np.stack([_mid_ranks(column, w) for column in table.T], -1) for table in (truth, scores)]
    centred = [r - np.einsum("rn,rnk->rk", w, r)[:, None] / w.sum(1)[:, None, None] for r in ranks]
    value = _correlation(centred[0], centred[1], w, _varies(truth, w), _varies(scores, w))
    return value[0] if counts is None else value


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
