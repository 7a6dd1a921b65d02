"""Several methods over several data sets: mean ranks, Friedman's test, Nemenyi's critical difference (Demšar 2006)."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy import stats

from covjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class MeanRanks:
    """Mean rank of each of k methods over N tasks (1 is best) and whether the ranks differ at all."""

    ranks: Float[np.ndarray, "k"]
    chi_square: float
    p_chi_square: float
    f: float
    p_f: float
    critical_difference: float


def mean_ranks(values: Float[np.ndarray, "tasks methods"], alpha: float = 0.05) -> MeanRanks:
    """Rank the methods within each task (ties share their mean rank) and test (Demšar 2006, §3.2.2).

        χ²_F = 12 N / (k (k + 1)) · (Σ_j R_j² − k (k + 1)² / 4) / (1 − Σ(t³ − t) / (N k (k² − 1)))
        F_F  = (N − 1) χ²_F / (N (k − 1) − χ²_F)          with k − 1 and (k − 1)(N − 1) degrees of freedom
        CD   = q_α √(k (k + 1) / (6 N))

    The divisor corrects for ties of t methods in a task. Larger values are better. Raises InputError for fewer than
    two tasks or methods, for NaN, and where all methods tie in all tasks.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise InputError(f"values: shape {x.shape} must be (tasks >= 2, methods >= 2)")
    if not np.isfinite(x).all():
        raise InputError(f"values: {np.count_nonzero(~np.isfinite(x))} are not finite")
    n, k = x.shape
    placed = stats.rankdata(-x, axis=1)
    ranks = placed.mean(0)
    ties = float(np.mean([stats.tiecorrect(row) for row in placed]))
    if ties <= 0:
        raise InputError("values: all methods tie in all tasks")
    chi = 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4) / ties
    spare = n * (k - 1) - chi
    f = math.inf if spare <= 1e-9 * n * k else (n - 1) * chi / spare
    return MeanRanks(
        ranks,
        float(chi),
        float(stats.chi2.sf(chi, k - 1)),
        float(f),
        float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))),
        nemenyi_q(k, alpha) * math.sqrt(k * (k + 1) / (6 * n)),
    )


def nemenyi_q(k: int, alpha: float = 0.05) -> float:
    """q_α of Nemenyi's test for k methods: quantile of the studentized range (infinite degrees of freedom) over √2.

    (Demšar 2006, table 5.)
    """
    return float(stats.studentized_range.ppf(1 - alpha, k, math.inf)) / math.sqrt(2)


def cliques(ranks: Float[np.ndarray, "k"], critical_difference: float) -> list[tuple[float, float]]:
    """Widest spans (lowest rank, highest rank) of at least two methods that the test does not tell apart."""
    sorted_ranks = np.sort(ranks)
    spans: list[tuple[float, float]] = []
    for low in sorted_ranks:
        high = sorted_ranks[sorted_ranks <= low + critical_difference][-1]
        if high > low and (not spans or high > spans[-1][1]):
            spans.append((float(low), float(high)))
    return spans
