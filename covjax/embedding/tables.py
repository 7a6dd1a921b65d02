"""What a pooler gave for every sequence: its features or, where they are many, their kernel with the training rows."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from covjax.probes import DualProbe, KernelSpace, LinearProbe, RowSpace, kernel_space, row_space

WIDE = 4096  # more features than this are kept as a kernel: at d = 320, 51,360 numbers a sequence become n_train


@dataclasses.dataclass(frozen=True)
class Table:
    """`values` is (n, num_features), or the (n, n_train) inner products with the training rows where `is_kernel`.

    A linear probe with an L2 penalty fits and scores the same on either (representer theorem).
    """

    values: Float[np.ndarray, "n k"]
    num_features: int
    is_kernel: bool = False

    def space(self, train: Int[np.ndarray, "n_train"]) -> RowSpace | KernelSpace:
        """Coordinates fitted on the training rows: none where these are all equal, such as the first residue M."""
        values = self.values[train]
        if self.is_kernel:
            return kernel_space(values)
        if (values == values[:1]).all():
            p = values.shape[1]
            return RowSpace(values[0].astype(np.float64), np.ones(()), np.empty((p, 0)), np.empty(0))
        return row_space(values)


def make_table(features: Float[np.ndarray, "n p"], train: Int[np.ndarray, "n_train"]) -> Table:
    """Keep the features, or their kernel if there are more than WIDE and than training rows; then `features` is spent.

    The kernel is that of features centred and scaled to mean squared norm 1 on the training rows, in place: the common
    part of all sequences would eat the digits of a float32 product.
    """
    p = features.shape[1]
    if p <= max(WIDE, len(train)):
        return Table(features, p)
    features -= features[train].mean(0, dtype=np.float64).astype(np.float32)
    scale = np.sqrt(np.mean(np.einsum("ij,ij->i", features[train], features[train], dtype=np.float64)))
    features /= scale or 1.0  # equal rows stay as they are
    known = features[train]
    kernel = np.empty((len(features), len(train)), np.float32)
    kernel[train] = known @ known.T  # NumPy sees that this is symmetric and computes one half
    others = np.setdiff1d(np.arange(len(features)), train)
    kernel[others] = features[others] @ known.T
    return Table(kernel, p, is_kernel=True)


def side_by_side(tables: Sequence[Table], train: Int[np.ndarray, "n_train"]) -> Table:
    """The features of all tables, each block centred and scaled to mean squared norm 1 on the training rows.

    Without that, one penalty for all columns would favour the block with the larger numbers.
    """
    width = sum(table.num_features for table in tables)
    if not any(table.is_kernel for table in tables):
        return make_table(np.concatenate([_scaled(table.values, train) for table in tables], axis=1), train)
    kernels = []
    for table in tables:
        if table.is_kernel:
            kernels.append(table.values)
        else:
            block = _scaled(table.values, train)
            kernels.append(block @ block[train].T)
    return Table(np.sum(kernels, axis=0), width, is_kernel=True)


def make_block(training: Float[np.ndarray, "m p"]) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, ""]]:
    """Centre and scale that give a block mean squared norm 1 on its training rows."""
    centre = training.mean(0)
    norm = np.sqrt(((training - centre).astype(np.float64) ** 2).sum(1).mean())
    return centre, np.asarray(norm or 1.0)  # equal rows stay as they are


def _scaled(block: Float[np.ndarray, "n p"], train: np.ndarray) -> Float[np.ndarray, "n p"]:
    centre, scale = make_block(block[train])
    return ((block - centre) / scale).astype(np.float32)


def principal_components(table: Table, count: int, train: Int[np.ndarray, "n_train"]) -> Table:
    """The first `count` principal components of the training rows' features: a linear map to a short vector."""
    space = table.space(train)
    first = np.argsort(-space.eigenvalues)[:count]
    values = space.coordinates(table.values)[:, first].astype(np.float32)
    return Table(values, values.shape[1])


def linear_components(
    features: Float[np.ndarray, "n p"], count: int, train: Int[np.ndarray, "n_train"]
) -> tuple[Float[np.ndarray, "p count"], Float[np.ndarray, "count"]]:
    """`principal_components` as a linear map of raw features and its offset, for sequences not seen yet."""
    table = make_table(features.copy(), train)
    space = table.space(train)
    first = np.argsort(-space.eigenvalues)[:count]
    if isinstance(space, RowSpace):
        weights = space.axes[:, first] / space.scale
        return weights, -space.mean @ weights
    centre, scale = _kernel_block(features, train)
    known = (features[train] - centre) / scale
    weights = known.T.astype(np.float64) @ space.dual[:, first] / scale
    return weights, space.offset[first] - centre @ weights


def _kernel_block(features: Float[np.ndarray, "n p"], train: np.ndarray) -> tuple[np.ndarray, np.floating]:
    """Centre and scale of the features whose kernel `make_table` keeps."""
    centre = features[train].mean(0, dtype=np.float64).astype(np.float32)
    known = features[train] - centre
    scale = np.sqrt(np.mean(np.einsum("ij,ij->i", known, known, dtype=np.float64)))
    return centre, scale or np.float32(1)


def primal(
    probe: DualProbe | LinearProbe, table: Table, training: Float[np.ndarray, "n_train p"], is_raw: bool
) -> LinearProbe:
    """The probe of a table as one of the recipe's own vectors, of which `training` are those of the training rows.

    `is_raw`: the vectors are a recipe's of one pool, which a kernel's table centres and scales; else blocks side by
    side whose kernels were added, which are so already.
    """
    if isinstance(probe, LinearProbe):
        return probe
    assert table.is_kernel
    centre, scale = _kernel_block(training, np.arange(len(training))) if is_raw else (np.zeros(1), 1.0)
    weights = ((training - centre) / scale).T.astype(np.float64) @ probe.alpha / scale
    return LinearProbe(weights, probe.bias - (centre @ weights if is_raw else 0))
