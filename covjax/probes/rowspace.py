"""Coordinates in which every L2-penalised linear probe is small and well conditioned.

The optimum of a linear probe with an L2 penalty lies in the span of the centred training samples (representer
theorem), so p features and n samples need only min(n, p) orthogonal coordinates. One eigendecomposition, of the
p x p (primal) or the n x n (dual) Gram matrix, whichever is smaller, gives them, and serves every penalty and probe.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.inputs import check_features, exact_mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowSpace:
    """Centre, one scale and orthonormal axes fitted on training features.

    Scaled features have a mean squared norm of 1 on the training set, so that one penalty grid is fair to all feature
    sets; a single scale for all columns keeps the geometry that the pooler made. `eigenvalues` are those of the Gram
    matrix of the scaled features divided by n: they sum to 1.
    """

    mean: Float[np.ndarray, "p"]
    scale: Float[np.ndarray, ""]
    axes: Float[np.ndarray, "p r"]
    eigenvalues: Float[np.ndarray, "r"]

    def coordinates(self, features: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m r"]:
        """Features in the rotated coordinates, float64.

        Raises InputError for another number of features, NaN and inf.
        """
        x = check_features(features, columns=len(self.mean))
        return ((x - self.mean) / self.scale) @ self.axes

    def probe(self, fitted: "LinearProbe") -> "LinearProbe":
        """The probe on raw features whose scores are those of `fitted` on their coordinates."""
        raw = self.axes @ (np.asarray(fitted.weights, np.float64) / self.scale)
        return LinearProbe(raw, np.asarray(fitted.bias, np.float64) - self.mean @ raw)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """scores = features @ weights + bias; features are raw ones, or the coordinates of a space (p = r)."""

    weights: Float[np.ndarray, "p k"]
    bias: Float[np.ndarray, "k"]

    def scores(self, features: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m k"]:
        """Linear scores, float64. Raw features enter as they are: not centred, not scaled.

        Raises InputError for another number of features, NaN and inf.
        """
        x = check_features(features, columns=len(self.weights))
        return x.astype(np.float64) @ self.weights + self.bias


def row_space(features: Float[np.ndarray, "n p"], rank_tolerance: float | None = None) -> RowSpace:
    """Fit the coordinates in float64; directions below `rank_tolerance` of the largest eigenvalue are left out.

    By default that is the rounding of the eigendecomposition itself, max(n, p) · 2.2e-16: a small column beside a large
    one is kept. Raises InputError for features that are not (n, p), not finite or do not vary.
    """
    x = check_features(features).astype(np.float64)
    n, p = x.shape
    mean = exact_mean(x)
    x = x - mean
    scale = np.sqrt((x**2).sum() / n)
    if not scale > 0:
        raise InputError(f"features: all {n} training samples are equal; nothing to fit")
    x /= scale
    if p <= n:
        values, vectors = np.linalg.eigh(x.T @ x / n)
        keep = values > (rank_tolerance or rounding(n, p)) * values[-1]
        axes = vectors[:, keep]
    else:
        values, vectors = np.linalg.eigh(x @ x.T / n)
        keep = values > (rank_tolerance or rounding(n, p)) * values[-1]
        axes = x.T @ (vectors[:, keep] / np.sqrt(n * values[keep]))
    return RowSpace(mean, np.asarray(scale), axes, values[keep])


def rounding(n: int, p: int) -> float:
    """Relative to the largest, the eigenvalues of an n × n or p × p Gram matrix that float64 does not resolve."""
    return max(n, p) * float(np.finfo(np.float64).eps)
