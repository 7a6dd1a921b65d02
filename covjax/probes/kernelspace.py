"""The coordinates of `rowspace` where only the kernel of the training samples is known, not their features.

With features F the kernel is F Fᵀ, and everything a linear probe with an L2 penalty needs is in it (representer
theorem): whole second moments enter through `covjax.gram` without a matrix of d² features a sequence.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.inputs import check_features, host_array
from covjax.probes.rowspace import LinearProbe, rounding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DualProbe:
    """scores = cross @ alpha + bias, with the kernel values of the samples against the n training samples."""

    alpha: Float[np.ndarray, "n k"]
    bias: Float[np.ndarray, "k"]

    def scores(self, cross: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m k"]:
        """Linear scores of raw (not centred, not scaled) kernel rows, float64.

        Raises InputError for another number of training samples, NaN and inf.
        """
        cross = check_features(cross, "cross", len(self.alpha))
        return cross.astype(np.float64) @ self.alpha + self.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelSpace:
    """coordinates = cross @ dual + offset: the same, up to sign, as those of the `RowSpace` of the features.

    The columns of `dual` sum to 0, which centres the kernel rows; `offset` removes the training mean. `scale` is the
    root of the mean squared norm of the centred training samples and `eigenvalues` are those of their kernel divided by
    n · scale²: they sum to 1.
    """

    dual: Float[np.ndarray, "n r"]
    offset: Float[np.ndarray, "r"]
    scale: Float[np.ndarray, ""]
    eigenvalues: Float[np.ndarray, "r"]

    def coordinates(self, cross: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m r"]:
        """Coordinates, float64, of m samples from their kernel values against the n training samples.

        Raises InputError for another number of training samples, NaN and inf.
        """
        cross = check_features(cross, "cross", len(self.dual))
        return cross.astype(np.float64) @ self.dual + self.offset

    def probe(self, fitted: LinearProbe) -> DualProbe:
        """The probe on raw kernel rows whose scores are those of `fitted` on their coordinates."""
        weights = np.asarray(fitted.weights, np.float64)
        return DualProbe(self.dual @ weights, np.asarray(fitted.bias, np.float64) + self.offset @ weights)


def kernel_space(gram_train: Float[np.ndarray, "n n"], rank_tolerance: float | None = None) -> KernelSpace:
    """Fit the coordinates from the raw (not centred) kernel of the n training samples with themselves.

    One float64 eigendecomposition of n × n; directions below `rank_tolerance` of the largest eigenvalue are left out.
    By default that is the rounding of the kernel's own type: 1.2e-7 for float32, and n · 2.2e-16 for float64, the
    decomposition's. What a float32 kernel lost (samples whose features differ much in size) only a float64 kernel has.
    `covjax.gram(sequences, kernel=...)` makes the kernel.

    Raises:
        InputError: a kernel that is not square, not finite, not symmetric, or of samples that do not vary.
    """
    given = host_array(gram_train, "gram_train")
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not given.size:
        raise InputError(f"gram_train: shape {given.shape} must be (n, n), the training samples with themselves")
    k = given.astype(np.float64)
    if not np.isfinite(k).all():
        raise InputError(f"gram_train: {int((~np.isfinite(k)).sum())} of {k.size} values are NaN or inf")
    n, largest = len(k), np.abs(k).max()
    if (skew := np.abs(k - k.T).max()) > 1e-5 * largest:
        raise InputError(f"gram_train: entries differ from their mirror image by up to {skew:g}; it must be symmetric")
    mean = k.mean(0)
    k -= mean
    k -= k.mean(1, keepdims=True)
    # A difference of kernel values within their own rounding is no variance.
    eps = float(jnp.finfo(given.dtype if jnp.issubdtype(given.dtype, jnp.floating) else np.float64).eps)
    square = np.trace(k) / n
    if not square > eps * largest:
        raise InputError(f"gram_train: all {n} training samples are equal; nothing to fit")
    values, vectors = np.linalg.eigh(k / (n * square))
    keep = values > (rank_tolerance or max(eps, rounding(n, n))) * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    dual = (vectors - vectors.mean(0)) / (square * np.sqrt(n * values))
    return KernelSpace(dual, -mean @ dual, np.asarray(np.sqrt(square)), values)
