"""Sparse probes: how well a handful of latents predicts a label."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from covjax.errors import InputError
from covjax.inputs import TableLike, VectorLike, check_features, check_whole, host_array
from covjax.probes.coordinates import LinearProbe, row_space
from covjax.probes.logistic import fit_logistic_path


@dataclasses.dataclass(frozen=True)
class SparseProbe:
    """A logistic probe of k columns; `latents` are their numbers, the one that differs most first."""

    latents: Int[np.ndarray, "k"]
    probe: LinearProbe

    def scores(self, features: TableLike) -> Float[np.ndarray, "m"]:
        """Log odds of (m, latents); InputError for another number of columns than it needs, NaN and inf."""
        x = check_features(features)
        if x.shape[1] <= self.latents.max():
            raise InputError(f"features: {x.shape[1]} columns, but the probe reads column {self.latents.max()}")
        return self.probe.scores(x[:, self.latents])[:, 0]


def fit_sparse_probe(features: TableLike, target: VectorLike, k: int, penalty: float = 1e-3) -> SparseProbe:
    """Choose the k columns whose means differ most between the two classes, and fit a logistic probe on them.

    The choice is by |mean where true − mean where false|, as in Gurnee et al. (2023) and SAEBench; ties go to the
    first. The penalty is relative to the chosen columns' mean squared norm, see `fit_logistic_path`.

    Args:
        features: (n, latents), such as each sequence's mean latents.
        target: (n,) booleans or 0 and 1, some of each.
        k: from 1 to the number of latents.

    Raises InputError for shapes that do not fit, NaN, inf, a single class, k out of range, and if no column differs
    between the classes.
    """
    x, y = check_features(features), host_array(target, "target")
    check_whole(k, "k", 1)
    if k > x.shape[1]:
        raise InputError(f"k: {k} of {x.shape[1]} columns; give at most as many as there are")
    if y.shape != x.shape[:1] or not np.isin(y, (0, 1)).all():
        raise InputError(f"target: {y.dtype}{list(y.shape)}, expected {len(x)} booleans or 0 and 1")
    y = y.astype(bool)
    if y.all() or not y.any():
        raise InputError(f"target: all {len(y)} are {bool(y[0])}; both classes are needed")
    gap = np.abs(x[y].mean(0, dtype=np.float64) - x[~y].mean(0, dtype=np.float64))
    columns = np.argsort(-gap, kind="stable")[:k]
    if not gap[columns[0]] > 0:
        raise InputError("features: no column has another mean in one class than in the other")
    space = row_space(x[:, columns])
    path = fit_logistic_path(space, space.coordinates(x[:, columns]), y[:, None], [penalty], exclusive=False)
    return SparseProbe(columns, path.probes[0])
