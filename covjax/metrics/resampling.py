"""Intervals and p values from bootstrap resamples and from folds, and their correction by Holm."""

import numbers
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy import special

from covjax.errors import InputError, shown
from covjax.inputs import VectorLike, check_whole, host_array, is_torch


def resample_counts(
    groups: Annotated[Any, Sequence[str]], resamples: Annotated[Any, int], seed: Annotated[Any, int]
) -> Int[np.ndarray, "resamples n"]:
    """How often each example occurs in each resample; whole groups are drawn with replacement (Efron 1979).

    Groups are texts or numbers. Raises InputError for fewer than two groups, a missing group, texts mixed with numbers,
    no resamples, and a negative seed.
    """
    check_whole(resamples, "resamples", 1)
    check_whole(seed, "seed", 0)
    names = _group_names(groups)
    # Not np.unique: an array of strings takes the longest one's length for each.
    number = {group: i for i, group in enumerate(sorted(set(names)))}
    index = np.array([number[group] for group in names], int)
    count = len(number)
    if count < 2:
        raise InputError(f"groups: {count} group; a bootstrap over groups needs at least 2")
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws[:, index]


def _group_names(groups: Any) -> list:
    if isinstance(groups, str) or not hasattr(groups, "__len__"):
        raise InputError(f"groups: {shown(groups)} must be a sequence of names, one for each example")
    if isinstance(groups, jax.Array) or is_torch(groups):
        groups = host_array(groups, "groups")
    names = list(groups)
    if not names:
        raise InputError("groups: empty; one name for each example is needed")
    kind = str if isinstance(names[0], str) else numbers.Real | np.bool_
    for name in names:
        if not isinstance(name, kind) or name != name:
            problem = "are texts or numbers, all of one kind; a missing one needs its own name"
            raise InputError(f"groups: {shown(name)}: they {problem}")
    return names


def interval(values: VectorLike, level: Annotated[Any, float] = 0.95) -> tuple[float, float]:
    """Percentile interval of the resampled values; undefined (NaN) resamples are left out.

    Raises InputError if fewer than half of the resamples are defined, and for infinite ones.
    """
    if not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise InputError(f"level: {shown(level)} must be between 0 and 1")
    values, defined = _defined(values, "values")
    if not len(defined) or len(defined) < len(values) / 2:
        raise InputError(f"values: {len(values) - len(defined)} of {len(values)} resamples are undefined")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _defined(values: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of the resamples as (resamples,), and those that are not NaN."""
    values = host_array(values, name).astype(np.float64)
    if values.ndim != 1:
        raise InputError(f"{name}: shape {values.shape} must be (resamples,), one number for each")
    if np.isinf(values).any():
        raise InputError(f"{name}: {int(np.isinf(values).sum())} of {values.size} resamples are infinite")
    return values, values[~np.isnan(values)]


def bootstrap_p_value(differences: VectorLike, groups: Annotated[Any, int]) -> float:
    """Two-sided p-value of a difference: twice the smaller share of resamples on one side of 0, at most 1.

    Two lower bounds keep it above 0. The first is (1 + count)/(1 + resamples) (Davison, Hinkley 1997, §4.2): with 1,000
    resamples it reaches 0.002. The second is 2 / 2^groups, the smallest p-value of the exact test that flips the signs
    of that many groups, because resamples of few groups cannot show more. A difference of 0 counts on both sides.
    Undefined (NaN) resamples are left out.

    Raises InputError for fewer than two groups, no resample that is defined, and infinite ones.
    """
    check_whole(groups, "groups", 2)
    differences, defined = _defined(differences, "differences")
    if not len(defined):
        raise InputError(f"differences: none of {len(differences)} resamples is defined")
    shares = [(1 + np.sum(side)) / (1 + len(defined)) for side in (defined <= 0, defined >= 0)]
    return float(min(1.0, max(2 * min(shares), 2.0 ** (1 - groups))))


def corrected_interval(
    differences: VectorLike, ratio: Annotated[Any, float], level: Annotated[Any, float] = 0.95
) -> tuple[float, float, float]:
    """Interval (low, high) and two-sided p-value of a mean difference over the J folds of repeated cross-validation.

    Folds share training rows, so the variance of their mean is not s²/J. The corrected resampled method (Nadeau and
    Bengio 2003) takes s²(1/J + `ratio`), `ratio` being test rows over training rows, with Student's t of J − 1 degrees.
    If all differences are equal, the interval has no width, and the p-value is 0, or 1 if they are 0.

    Raises InputError for fewer than two differences, infinite or NaN ones, a `ratio` that is not above 0, and a
    `level` outside (0, 1).
    """
    values = host_array(differences, "differences").astype(np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise InputError(f"differences: shape {values.shape} must be (folds >= 2,), all of them finite")
    if not isinstance(ratio, int | float | np.number) or not 0 < ratio < np.inf:
        raise InputError(f"ratio: {shown(ratio)} must be a number > 0: test rows over training rows")
    if not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise InputError(f"level: {shown(level)} must be between 0 and 1")
    mean, folds = values.mean(), len(values)
    error = values.std(ddof=1) * np.sqrt(1 / folds + ratio)
    if not error > 1e-15 * abs(mean):  # equal values, up to their rounding
        return float(mean), float(mean), float(mean == 0)
    half = special.stdtrit(folds - 1, (1 + level) / 2) * error
    return float(mean - half), float(mean + half), float(2 * special.stdtr(folds - 1, -abs(mean) / error))


def holm(p_values: VectorLike) -> Float[np.ndarray, "m"]:
    """Adjusted p-values: rejecting those <= α keeps the family-wise error at α under any dependence (Holm 1979).

    The i-th smallest of m becomes max over j <= i of min(1, (m − j + 1) p_(j)), at the place of the original.
    Raises InputError for an empty or nested sequence and for values outside [0, 1].
    """
    p = host_array(p_values, "p_values").astype(np.float64)
    if p.ndim != 1 or not p.size:
        raise InputError(f"p_values: shape {p.shape} must be (m >= 1,)")
    if not ((p >= 0) & (p <= 1)).all():
        bad = p[~((p >= 0) & (p <= 1))][0]
        raise InputError(f"p_values: {bad} must be in [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
