"""Coordinates in which probes are fitted: features, their row space, or a kernel.

The optimum of a linear probe with an L2 penalty lies in the span of the centred training samples (representer
theorem), so p features and n samples need only min(n, p) orthogonal coordinates. One eigendecomposition, of the
p x p (primal) or the n x n (dual) Gram matrix, whichever is smaller, gives them for every penalty and probe. Ridge
alone, with few outputs and penalties, takes less work without them: see `covjax.probes.ridge_blocks`.

With features F the kernel is F Fᵀ, and everything a linear probe with an L2 penalty needs is in it (representer
theorem): whole second moments enter through `covjax.gram`, without d² features per sequence.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from covjax.errors import InputError, shown
from covjax.inputs import TableLike, check_features, exact_mean, host_array

Probe = TypeVar("Probe", covariant=True)
_BLOCK = 2**28  # bytes of float64 rows that are widened at a time; fewer are one block


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Blocks of rows that together make up a table, each at most 256 MiB in float64."""
    size = max(1, _BLOCK // (8 * max(columns, 1)))
    for first in range(0, rows, size):
        yield slice(first, first + size)


def _by_rows(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, columns: int) -> Float[np.ndarray, "m r"]:
    """What a function of rows gives for all of them, without a float64 copy of all at a time."""
    out = np.empty((len(x), columns))
    for part in row_blocks(*x.shape):
        out[part] = function(x[part])
    return out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """scores = features @ weights + bias; features are raw ones, or the coordinates of a space (p = r)."""

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    weights: Float[np.ndarray, "p k"]
    bias: Float[np.ndarray, "k"]

    def scores(self, features: TableLike) -> Float[np.ndarray, "m k"]:
        """Linear scores, float64. Raw features enter as they are: not centred, not scaled.

        Raises InputError for another number of features, NaN and inf.
        """
        x = check_features(features, columns=len(self.weights))
        return _by_rows(lambda rows: rows.astype(np.float64) @ self.weights + self.bias, x, len(self.bias))


@runtime_checkable
class Space(Protocol[Probe]):
    """Centred, scaled, orthogonal coordinates Z of the training samples: ZᵀZ/n = diag(eigenvalues), trace 1.

    `RowSpace` and `SampleSpace` compute them from features, `KernelSpace` from kernel values.
    """

    @property
    def eigenvalues(self) -> Float[np.ndarray, "r"]:
        """Variance along every coordinate; they sum to 1."""

    def coordinates(self, inputs: TableLike, /) -> Float[np.ndarray, "m r"]:
        """Coordinates of any samples, of training or new ones."""

    def probe(self, fitted: LinearProbe, /) -> Probe:
        """The probe on inputs (what `coordinates` takes) whose scores are those of `fitted` on their coordinates."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowSpace:
    """Centre, one scale and orthonormal axes fitted on training features.

    Scaled features have a mean squared norm of 1 on the training set, so that one penalty grid is fair to all feature
    sets; a single scale for all columns keeps the geometry that the pooler made. `eigenvalues` are those of the Gram
    matrix of the scaled features divided by n: they sum to 1.
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    mean: Float[np.ndarray, "p"]
    scale: Float[np.ndarray, ""]
    axes: Float[np.ndarray, "p r"]
    eigenvalues: Float[np.ndarray, "r"]

    def coordinates(self, features: TableLike) -> Float[np.ndarray, "m r"]:
        """Features in the rotated coordinates, float64.

        Raises InputError for another number of features, NaN and inf.
        """
        x = check_features(features, columns=len(self.mean))
        return _by_rows(lambda rows: ((rows - self.mean) / self.scale) @ self.axes, x, self.axes.shape[1])

    def probe(self, fitted: "LinearProbe") -> "LinearProbe":
        """The probe on raw features whose scores are those of `fitted` on their coordinates."""
        raw = self.axes @ (np.asarray(fitted.weights, np.float64) / self.scale)
        return LinearProbe(raw, np.asarray(fitted.bias, np.float64) - self.mean @ raw)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleSpace:
    """The `RowSpace` of more features than samples, its axes kept as sums over these: axes = samplesᵀ @ dual.

    Coordinates of the training samples are those of the eigenvectors, without a product. Those of at most p others are
    found without the axes, by m · n · (p + r) products in place of (n + m) · p · r.
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    mean: Float[np.ndarray, "p"]
    scale: Float[np.ndarray, ""]
    samples: Float[np.ndarray, "n p"]  # centred and scaled
    dual: Float[np.ndarray, "n r"]
    eigenvalues: Float[np.ndarray, "r"]

    @property
    def sample_coordinates(self) -> Float[np.ndarray, "n r"]:
        """Coordinates of the training samples, float64."""
        return self.dual * (len(self.dual) * self.eigenvalues)

    def coordinates(self, features: TableLike) -> Float[np.ndarray, "m r"]:
        """Features in the rotated coordinates, float64.

        Raises InputError for another number of features, NaN and inf.
        """
        x = check_features(features, columns=len(self.mean))
        turns = (self.samples.T, self.dual) if len(x) <= x.shape[1] else (self.samples.T @ self.dual,)
        return _by_rows(lambda rows: reduce(np.matmul, turns, (rows - self.mean) / self.scale), x, self.dual.shape[1])

    def probe(self, fitted: LinearProbe) -> LinearProbe:
        """The probe on raw features whose scores are those of `fitted` on their coordinates."""
        raw = self.samples.T @ (self.dual @ (np.asarray(fitted.weights, np.float64) / self.scale))
        return LinearProbe(raw, np.asarray(fitted.bias, np.float64) - self.mean @ raw)


def row_space(features: TableLike, rank_tolerance: Annotated[Any, float | None] = None) -> RowSpace:
    """Fit the coordinates in float64; directions below `rank_tolerance` of the largest eigenvalue are left out.

    By default the tolerance is the rounding of the eigendecomposition itself, max(n, p) · 2.2e-16, so a small column
    beside a large one is kept. Raises InputError for features that are not (n, p), not finite or do not vary.
    """
    table = check_features(features)
    n, p = table.shape
    if p > n:
        space = sample_space(table, rank_tolerance)
        return RowSpace(space.mean, space.scale, space.samples.T @ space.dual, space.eigenvalues)
    tolerance = _tolerance(rank_tolerance, rounding(n, p))
    mean, scale = _centre_and_scale(table)
    scatter = np.zeros((p, p))
    for part in row_blocks(n, p):
        x = (table[part].astype(np.float64) - mean) / scale
        scatter += x.T @ x
    values, vectors = np.linalg.eigh(scatter / n)
    keep = values > tolerance * values[-1]
    return RowSpace(mean, scale, vectors[:, keep], values[keep])


def sample_space(features: TableLike, rank_tolerance: Annotated[Any, float | None] = None) -> SampleSpace:
    """`row_space` of fewer samples than features, by one eigendecomposition of n × n; arguments and errors as there."""
    table = check_features(features)
    n, p = table.shape
    tolerance = _tolerance(rank_tolerance, rounding(n, p))
    mean, scale = _centre_and_scale(table)
    x = (table.astype(np.float64) - mean) / scale
    values, vectors = np.linalg.eigh(x @ x.T / n)
    keep = values > tolerance * values[-1]
    return SampleSpace(mean, scale, x, vectors[:, keep] / np.sqrt(n * values[keep]), values[keep])


def _centre_and_scale(table: np.ndarray) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, ""]]:
    """Mean, and the root of the mean squared norm of the centred rows; InputError where these are all equal."""
    n, parts = len(table), list(row_blocks(*table.shape))
    mean = _mean(table, parts)
    # Squares of what is divided by it neither overflow nor vanish.
    size = max(float(np.abs(table[part].astype(np.float64) - mean).max()) for part in parts) or 1.0
    scale = size * np.sqrt(sum((((table[part].astype(np.float64) - mean) / size) ** 2).sum() for part in parts) / n)
    if not scale > 0:
        raise InputError(f"features: all {n} training samples are equal; nothing to fit")
    return mean, np.asarray(scale)


def _mean(table: np.ndarray, parts: list[slice]) -> Float[np.ndarray, "p"]:
    """`exact_mean` of all rows, part by part."""
    n = len(table)
    if len(parts) == 1:
        return exact_mean(table.astype(np.float64))
    mean = np.sum([table[part].sum(0, dtype=np.float64) for part in parts], axis=0) / n
    return mean + np.sum([(table[part] - mean).sum(0) for part in parts], axis=0) / n


def _tolerance(given: Annotated[Any, float | None], default: float) -> float:
    if given is None:
        return default
    if not isinstance(given, int | float | np.number) or not 0 < given < 1:
        raise InputError(f"rank_tolerance: {shown(given)} must be None or a number between 0 and 1")
    return float(given)


def check_eigenvalues(eigenvalues: Any) -> Float[np.ndarray, "r"]:
    """The eigenvalues of a space in float64; InputError unless they form a vector of finite numbers >= 0."""
    values = host_array(eigenvalues, "eigenvalues").astype(np.float64)
    if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(f"eigenvalues: shape {values.shape} must be (r,), finite and >= 0: those of a space")
    return values


def rounding(n: int, p: int) -> float:
    """The eigenvalue, relative to the largest, below which float64 does not resolve an n × n or p × p Gram matrix."""
    return max(n, p) * float(np.finfo(np.float64).eps)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DualProbe:
    """scores = cross @ alpha + bias, with the kernel values of the samples against the n training samples."""

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    alpha: Float[np.ndarray, "n k"]
    bias: Float[np.ndarray, "k"]

    def scores(self, cross: TableLike) -> Float[np.ndarray, "m k"]:
        """Linear scores of raw (not centred, not scaled) kernel rows, float64.

        Raises InputError for another number of training samples, NaN and inf.
        """
        cross = check_features(cross, "cross", len(self.alpha))
        return _by_rows(lambda rows: rows.astype(np.float64) @ self.alpha + self.bias, cross, len(self.bias))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelSpace:
    """coordinates = cross @ dual + offset: the same, up to sign, as those of the `RowSpace` of the features.

    The columns of `dual` sum to 0, which centres the kernel rows; `offset` removes the training mean. `scale` is the
    root of the mean squared norm of the centred training samples and `eigenvalues` are those of their kernel divided by
    n · scale²: they sum to 1.
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    dual: Float[np.ndarray, "n r"]
    offset: Float[np.ndarray, "r"]
    scale: Float[np.ndarray, ""]
    eigenvalues: Float[np.ndarray, "r"]

    @property
    def sample_coordinates(self) -> Float[np.ndarray, "n r"]:
        """Coordinates, float64, of the samples whose kernel `kernel_space` was given, without a product."""
        return self.dual * (len(self.dual) * self.scale**2 * self.eigenvalues)

    def coordinates(self, cross: TableLike) -> Float[np.ndarray, "m r"]:
        """Coordinates, float64, of m samples from their kernel values against the n training samples.

        Raises InputError for another number of training samples, NaN and inf.
        """
        cross = check_features(cross, "cross", len(self.dual))
        return _by_rows(lambda rows: rows.astype(np.float64) @ self.dual + self.offset, cross, len(self.offset))

    def probe(self, fitted: LinearProbe) -> DualProbe:
        """The probe on raw kernel rows whose scores are those of `fitted` on their coordinates."""
        weights = np.asarray(fitted.weights, np.float64)
        return DualProbe(self.dual @ weights, np.asarray(fitted.bias, np.float64) + self.offset @ weights)


def kernel_space(gram_train: TableLike, rank_tolerance: Annotated[Any, float | None] = None) -> KernelSpace:
    """Fit the coordinates from the raw (not centred) kernel of the n training samples with themselves.

    One float64 eigendecomposition of n × n; directions below `rank_tolerance` of the largest eigenvalue are left out.
    By default the tolerance is the rounding of the kernel's own type: 1.2e-7 for float32, and n · 2.2e-16 for float64,
    which is the decomposition's. A float32 kernel loses digits if samples differ much in size; use float64 then.
    `covjax.gram(sequences, kernel=...)` computes the kernel.

    Raises:
        InputError: a kernel that is not square, not finite, not symmetric, with eigenvalues below 0, or of samples that
            do not vary.
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
    tolerance = _tolerance(rank_tolerance, max(eps, rounding(n, n)))
    square = np.trace(k) / n
    if square < -eps * largest:
        raise InputError(f"gram_train: not a kernel: the variance of its samples would be {square:g}, must be > 0")
    if not square > eps * largest:
        raise InputError(f"gram_train: all {n} training samples are equal; nothing to fit")
    values, vectors = np.linalg.eigh(k / (n * square))
    if values[0] < -(0.01 * values[-1] + eps * largest / square):
        raise InputError(
            f"gram_train: not a kernel: an eigenvalue is {values[0] / values[-1]:g} times the largest; none may be < 0"
        )
    keep = values > tolerance * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    dual = (vectors - vectors.mean(0)) / (square * np.sqrt(n * values))
    return KernelSpace(dual, -mean @ dual, np.asarray(np.sqrt(square)), values)
