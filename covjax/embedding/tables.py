"""What a pooler gave for every sequence: its features or, where they are many, their kernel with the training rows.

Below: linear maps of wide vectors from their kernel, as sums over the training vectors, which pass by in batches.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from covjax.jobs.distributed import gather
from covjax.probes import DualProbe, KernelSpace, LinearProbe, RowSpace, kernel_space, row_space
from covjax.probes.coordinates import SampleSpace, row_blocks, sample_space
from covjax.probes.nonlinear import MULTIPLES, radial_space


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """Training `rows` that stand for all; `kernel` is exact: of the `fitted` and `scored` rows with the `fitted`.

    The two are a sample, training and validation rows that are no landmarks, on which a probe is fitted both ways to
    see what the landmarks cost. A sketch has no `rows`, and the sample alone.
    """

    rows: Int[np.ndarray, "k"]
    fitted: Int[np.ndarray, "s"]
    scored: Int[np.ndarray, "v"]
    kernel: Float[np.ndarray, "sv s"]


@dataclasses.dataclass(frozen=True)
class Directions:
    """Combinations of the training rows, of conjugate gradients, that a kernel is with in place of these rows.

    `vectors` has orthonormal columns that sum to 0. Ridge in the span of the rows so combined is ridge on all, to the
    residual at which the `steps` ended (`covjax.probes.ridge_conjugate`). `square` is the mean squared norm of the
    centred training rows, which penalties are relative to. `beside` names the rows of features beside this kernel that
    were solved with it; ridge on others is not exact in the span.
    """

    vectors: Float[np.ndarray, "n_train c"]
    square: float
    steps: int
    beside: tuple[str, ...] = ()


AnySpace = RowSpace | SampleSpace | KernelSpace
WIDE = 4096  # more features than this are kept as a kernel: at d = 320, 51,360 numbers a sequence become n_train
_LARGE = 2**30  # bytes of sums above which they are float32
_COLUMNS = 2**16  # of the vectors, widened at a time


@dataclasses.dataclass(frozen=True)
class Table:
    """`values` is (n, num_features), or the (n, n_train) inner products with the training rows where `is_kernel`.

    A linear probe with an L2 penalty fits and scores the same on either (representer theorem). With `landmarks`, some
    of the training rows, the inner products are with these alone (Nyström): the probe's weights lie in their span; with
    `directions` they are with combinations of training rows. Features with landmarks that have no rows are a sketch.
    `shares` are those of a mixture's parts (`covjax.recipes.base.Weighted`).
    """

    values: Float[np.ndarray, "n k"]
    num_features: int
    is_kernel: bool = False
    landmarks: Landmarks | None = None
    shares: tuple[int, ...] = ()
    probe: str = ""  # rbf or mlp, where other probes than linear ones score the features
    directions: Directions | None = None

    @property
    def solver(self) -> str:
        """What stands for the exact features or kernel: `cg`, `landmarks`, `sketch`, or nothing."""
        if self.landmarks is None:
            return ""
        return "cg" if self.directions is not None else "landmarks" if self.is_kernel else "sketch"

    def spaces(self, train: Int[np.ndarray, "n_train"]) -> list[Any]:
        """The spaces that validation chooses from: one a bandwidth for a radial kernel, else the table's own."""
        if self.probe != "rbf":
            return [self.space(train)]
        return [radial_space(self.values[train], multiple) for multiple in MULTIPLES]

    def space(self, train: Int[np.ndarray, "n_train"]) -> AnySpace:
        """Coordinates fitted on the training rows: none where these are all equal, such as the first residue M."""
        if self.directions is not None:
            return direction_space(self.values[train], self.directions)
        if self.is_kernel and self.landmarks is not None:
            return landmark_space(self.values, self.landmarks.rows, train)
        if self.is_kernel:
            return kernel_space(self.values[train])
        if self.is_constant(train):
            p = self.values.shape[1]
            return RowSpace(self.values[train[0]].astype(np.float64), np.ones(()), np.empty((p, 0)), np.empty(0))
        fit = sample_space if self.values.shape[1] > len(train) else row_space
        return fit(self.values[train])

    def is_constant(self, train: Int[np.ndarray, "n_train"]) -> bool:
        """Whether all training rows are equal."""
        parts = row_blocks(len(train), self.values.shape[1])
        return all((self.values[train[part]] == self.values[train[:1]]).all() for part in parts)

    def kernel_rows(self, train: Int[np.ndarray, "n_train"]) -> Int[np.ndarray, "k"]:
        """The rows that a kernel's columns are of: the landmarks, or all training rows."""
        return self.landmarks.rows if self.landmarks is not None and self.solver == "landmarks" else train

    def row_weights(self, alpha: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "rows k"]:
        """A probe's weights of the kernel's columns, as weights of `kernel_rows`."""
        return alpha if self.directions is None else self.directions.vectors.astype(np.float64) @ alpha


def landmark_space(
    kernel: Float[np.ndarray, "n k"], landmarks: Int[np.ndarray, "k"], train: Int[np.ndarray, "n_train"]
) -> KernelSpace:
    """The row space of the training rows' projections on the span of the landmarks (Williams and Seeger 2001).

    The coordinates come from the (n, k) kernel with the landmarks; those of all training rows are exact where all of
    them are landmarks.
    """
    inner = kernel_space(kernel[landmarks])
    projected = np.empty((len(train), len(inner.offset)), np.float32)
    for part in row_blocks(len(train), kernel.shape[1]):
        projected[part] = inner.coordinates(kernel[train[part]])
    outer = row_space(projected)
    turn = outer.axes / outer.scale
    offset = (inner.offset - outer.mean) @ turn
    return KernelSpace(inner.dual @ turn, offset, inner.scale * outer.scale, outer.eigenvalues)


def direction_space(kernel: Float[np.ndarray, "n_train c"], directions: Directions) -> KernelSpace:
    """The row space of the training rows' projections on the span of the directions; eigenvalues sum to its share.

    Raises InputError where the training rows do not vary.
    """
    vectors, inner = directions.vectors, np.zeros((kernel.shape[1], kernel.shape[1]))
    for part in row_blocks(*kernel.shape):
        inner += vectors[part].T.astype(np.float64) @ kernel[part].astype(np.float64)
    values, axes = np.linalg.eigh((inner + inner.T) / 2)
    keep = values > np.finfo(np.float32).eps * values[-1]
    axes = axes[:, keep] / np.sqrt(values[keep])
    projected = np.empty((len(kernel), axes.shape[1]))
    for part in row_blocks(*kernel.shape):
        projected[part] = kernel[part].astype(np.float64) @ axes
    outer = row_space(projected)
    turn = outer.axes / np.sqrt(directions.square)
    eigenvalues = outer.eigenvalues * (outer.scale**2 / directions.square)
    return KernelSpace(axes @ turn, -outer.mean @ turn, np.sqrt(np.asarray(directions.square)), eigenvalues)


def make_table(features: Float[np.ndarray, "n p"], train: Int[np.ndarray, "n_train"]) -> Table:
    """Keep the features, or their kernel if there are more than WIDE and than training rows; then `features` is spent.

    The kernel is that of features centred and scaled to mean squared norm 1 on the training rows, in place: the common
    part of all sequences would eat the digits of a float32 product.
    """
    p = features.shape[1]
    if p <= max(WIDE, len(train)):
        return Table(features, p)
    features -= features[train].mean(0, dtype=np.float64).astype(np.float32)
    known = features[train]
    square = np.mean(np.einsum("ij,ij->i", known, known, dtype=np.float64))
    scale = float(np.sqrt(square)) or 1.0  # equal rows stay as they are
    features /= scale
    known /= scale
    kernel = np.empty((len(features), len(train)), np.float32)
    kernel[train] = known @ known.T  # NumPy sees that this is symmetric and computes one half
    others = np.setdiff1d(np.arange(len(features)), train)
    kernel[others] = features[others] @ known.T
    return Table(kernel, p, is_kernel=True)


def side_by_side(
    tables: Sequence[Table], train: Int[np.ndarray, "n_train"], weights: Sequence[float] | None = None
) -> Table:
    """The features of all tables, each block centred and scaled to mean squared norm 1, or its weight, on `train`.

    Without that, one penalty for all columns would favour the block with the larger numbers. Beside a kernel with
    landmarks it is on these.
    """
    width = sum(table.num_features for table in tables)
    wide = next((table for table in tables if table.is_kernel), None)
    roots = np.sqrt(np.ones(len(tables), np.float32) if weights is None else np.asarray(weights, np.float32))
    rows = train if wide is None else wide.kernel_rows(train)
    landmarks = next((table.landmarks for table in tables if table.landmarks is not None), None)
    joint = np.empty((len(tables[0].values), width if wide is None else 0), np.float32)
    places = np.split(joint, np.cumsum([table.num_features for table in tables])[:-1], axis=1) if wide is None else []
    blocks: list[np.ndarray | None] = [None] * len(tables)
    for i, table in enumerate(tables):
        if not table.is_kernel:
            blocks[i] = scaled(table.values, rows, places[i] if wide is None else None)
    if landmarks is not None:
        landmarks = dataclasses.replace(landmarks, kernel=_sample_kernel(tables, blocks, roots, landmarks))
    if wide is None:
        for root, place in zip(roots, places):
            place *= root
        return make_table(joint, train) if landmarks is None else Table(joint, width, landmarks=landmarks)
    kernels, directions, square = [], wide.directions, 0.0
    for root, table, block in zip(roots, tables, blocks, strict=True):
        weight = root * root
        if block is None:
            kernels.append(weight * table.values)
            square += 0.0 if table.directions is None else float(weight) * table.directions.square
        elif directions is None:
            kernels.append(weight * (block @ block[rows].T))
        else:
            kernels.append(weight * (block @ (block[rows].T @ directions.vectors)))
            square += float(weight) * float(np.square(block[rows], dtype=np.float64).sum() / len(rows))
    if directions is not None:
        directions = dataclasses.replace(directions, square=square)
    return Table(sum(kernels[1:], kernels[0]), width, True, landmarks, directions=directions)


def _sample_kernel(
    tables: Sequence[Table],
    blocks: Sequence[Float[np.ndarray, "n _"] | None],
    roots: Float[np.ndarray, "t"],
    landmarks: Landmarks,
) -> Float[np.ndarray, "sv s"]:
    """The exact kernel of the sample of tables beside each other."""
    kernel, sample = np.zeros(landmarks.kernel.shape, np.float32), np.concatenate([landmarks.fitted, landmarks.scored])
    for root, table, block in zip(roots, tables, blocks, strict=True):
        if table.landmarks is not None:
            kernel += root * root * table.landmarks.kernel
        elif block is not None:
            kernel += root * root * (block[sample] @ block[landmarks.fitted].T)
    return kernel


def block_kernel(table: Table, train: Int[np.ndarray, "n_train"]) -> Float[np.ndarray, "n n_train"]:
    """Inner products with the training rows of features centred and scaled to mean squared norm 1 on these."""
    if table.is_kernel:
        return table.values
    block = scaled(table.values, train)
    return block @ block[train].T


def scaled(
    block: Float[np.ndarray, "n p"], train: np.ndarray, out: Float[np.ndarray, "n p"] | None = None
) -> Float[np.ndarray, "n p"]:
    """Features centred, and scaled to mean squared norm 1, on the training rows; in `out` where that is given."""
    parts = [train[part] for part in row_blocks(len(train), block.shape[1])]  # never all of them as a copy
    mean = np.sum([block[known].sum(0, dtype=np.float64) for known in parts], axis=0) / len(train)
    centre, square = mean.astype(block.dtype), 0.0
    for known in parts:
        rows = (block[known] - centre).astype(np.float64)
        square += np.einsum("ij,ij->", rows, rows)
    norm = np.sqrt(square / len(train))
    out = np.empty(block.shape, np.float32) if out is None else out
    for part in row_blocks(*block.shape):
        out[part] = (block[part] - centre) / (norm or 1.0)  # equal rows stay as they are
    return out


def principal_components(table: Table, counts: Sequence[int], train: Int[np.ndarray, "n_train"]) -> Iterator[Table]:
    """Linear maps to short vectors: for each of `counts` so many first principal components of the training rows."""
    every = first_components(table.space(train), max(counts))
    for count in counts:
        space = first_components(every, count)
        values = np.empty((len(table.values), len(space.eigenvalues)), np.float32)
        for part in row_blocks(*table.values.shape):
            values[part] = space.coordinates(table.values[part])
        yield Table(values, values.shape[1])


def first_components(space: AnySpace, count: int) -> AnySpace:
    """The space of the coordinates with the largest eigenvalues, at most `count` of them, the largest first."""
    first = np.argsort(-space.eigenvalues)[:count]
    names = {"axes", "dual", "offset", "eigenvalues"}  # arrays whose last axis is that of the coordinates
    return dataclasses.replace(space, **{name: getattr(space, name)[..., first] for name in names & vars(space).keys()})


class Sums(NamedTuple):
    """Σ α_i v_i over the training vectors v, their mean, and the mean square of what is left without it."""

    weighted: Float[np.ndarray, "p k"]
    mean: Float[np.ndarray, "p"]
    square: float


class TrainingSums:
    """`Sums` in the making: batches of row numbers and vectors of `width` numbers; rows not in `train` do not count."""

    def __init__(self, train: Int[np.ndarray, "n_train"], alpha: Float[np.ndarray, "n_train k"], width: int):
        self._weights = dict(zip(train.tolist(), alpha))
        dtype = np.float64 if 8 * width * alpha.shape[1] <= _LARGE else np.float32
        self._weighted, self._mean, self._square = np.zeros((width, alpha.shape[1]), dtype), np.zeros(width), 0.0

    def add(self, rows: Int[np.ndarray, "b"], vectors: Float[np.ndarray, "b p"]) -> None:
        """Count a batch in."""
        chosen = [i for i, row in enumerate(rows.tolist()) if row in self._weights]
        if not chosen:
            return
        count = len(self._weights)
        weights = np.stack([self._weights[rows[i]] for i in chosen], axis=1)
        coefficients = np.concatenate([weights, np.full((1, len(chosen)), 1 / count)])
        vectors = vectors if len(chosen) == len(vectors) else vectors[chosen]
        for first in range(0, len(self._mean), _COLUMNS):
            part = vectors[:, first : first + _COLUMNS].astype(np.float64)
            sums = coefficients @ part
            self._weighted[first : first + _COLUMNS] += sums[:-1].T
            self._mean[first : first + _COLUMNS] += sums[-1]
            self._square += float(np.einsum("ij,ij->i", part, part).sum()) / count

    def total(self) -> Sums:
        """The sums of all processes, which call this together, each after batches of its own rows."""
        weighted, mean = gather(self._weighted[None]).sum(0), gather(self._mean[None]).sum(0)
        square = float(gather(np.array([self._square])).sum())
        variance = square - float(mean @ mean)
        # Less than this share is the rounding of equal rows.
        return Sums(weighted, mean, variance if variance > 1e-13 * square else 0.0)


def centred_probe(probe: DualProbe, sums: Sums) -> LinearProbe:
    """The probe on raw vectors of one on the kernel of these, centred and scaled to a mean square of 1; see `Sums`."""
    scale = sums.square or 1.0
    weights = sums.weighted
    weights -= np.multiply.outer(sums.mean, probe.alpha.sum(0))
    weights /= scale
    return LinearProbe(weights, probe.bias - sums.mean @ weights)


def block_of(sums: Sums) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, ""]]:
    """Centre and scale that give the vectors mean squared norm 1 on the training rows; equal rows stay as they are."""
    return sums.mean.astype(np.float32), np.asarray(np.sqrt(sums.square) or 1.0)
