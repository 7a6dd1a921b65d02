"""Several methods over several data sets: mean ranks, Friedman's test, Nemenyi's critical difference (Demšar 2006)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, gammaincc
from jaxtyping import Float

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
    above = (x[:, None, :] > x[:, :, None]).sum(-1)
    equal = (x[:, None, :] == x[:, :, None]).sum(-1)  # each method counts itself
    ranks = (above + (equal + 1) / 2).mean(0)
    ties = 1 - (equal**2 - 1).sum() / (n * k * (k**2 - 1))  # Σ over groups of t³ − t = Σ over methods of t² − 1
    if ties <= 0:
        raise InputError("values: all methods tie in all tasks")
    chi = 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4) / ties
    spare = n * (k - 1) - chi
    f = math.inf if spare <= 1e-9 * n * k else (n - 1) * chi / spare
    p_f = 0.0 if math.isinf(f) else float(betainc((k - 1) * (n - 1) / 2, (k - 1) / 2, _share(f, k, n)))
    return MeanRanks(
        ranks,
        float(chi),
        float(gammaincc(jnp.float32((k - 1) / 2), jnp.float32(chi / 2))),
        float(f),
        p_f,
        nemenyi_q(k, alpha) * math.sqrt(k * (k + 1) / (6 * n)),
    )


def _share(f: float, k: int, n: int) -> float:
    # P(F > f) = I_x(b/2, a/2) with x = b / (b + a f) for a and b degrees of freedom.
    a, b = k - 1, (k - 1) * (n - 1)
    return b / (b + a * f)


def nemenyi_q(k: int, alpha: float = 0.05) -> float:
    """q_α of Nemenyi's test for k methods: quantile of the studentized range (infinite degrees of freedom) over √2.

    P(range <= q) = k ∫ φ(z) [Φ(z) − Φ(z − q)]^(k−1) dz (Demšar 2006, table 5), solved for 1 − α by bisection.
    """
    z = np.linspace(-8, 28, 1441)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
    below = cdf(z)

    def probability(q: float) -> float:
        return k * np.trapezoid(density * (below - cdf(z - q)) ** (k - 1), z)

    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < 1 - alpha else (low, middle)
    return high / math.sqrt(2)


def cliques(ranks: Float[np.ndarray, "k"], critical_difference: float) -> list[tuple[float, float]]:
    """Widest spans (lowest rank, highest rank) of at least two methods that the test does not tell apart."""
    sorted_ranks = np.sort(ranks)
    spans: list[tuple[float, float]] = []
    for low in sorted_ranks:
        high = sorted_ranks[sorted_ranks <= low + critical_difference][-1]
        if high > low and (not spans or high > spans[-1][1]):
            spans.append((float(low), float(high)))
    return spans
