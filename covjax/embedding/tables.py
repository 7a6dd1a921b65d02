"""What a pooler gave for every sequence: its features or, where they are many, their kernel with the training rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax.probes import KernelSpace, RowSpace, kernel_space, row_space
from covjax.probes.nonlinear import MULTIPLES, radial_space

WIDE = 4096  # more features than this are kept as a kernel: at d = 320, 51,360 numbers a sequence become n_train


@dataclasses.dataclass(frozen=True)
class Table:
    """`values` is (n, num_features), or the (n, n_train) inner products with the training rows where `is_kernel`.

    A linear probe with an L2 penalty fits and scores the same on either (representer theorem).
    """

    values: Float[np.ndarray, "n k"]
    num_features: int
    is_kernel: bool = False
    probe: str = ""  # rbf or mlp, where other probes than linear ones score the features

    def spaces(self, train: Int[np.ndarray, "n_train"]) -> list[Any]:
        """The spaces that validation chooses from: one a bandwidth for a radial kernel, else the table's own."""
        if self.probe != "rbf":
            return [self.space(train)]
        return [radial_space(self.values[train], multiple) for multiple in MULTIPLES]

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


def _scaled(block: Float[np.ndarray, "n p"], train: np.ndarray) -> Float[np.ndarray, "n p"]:
    centre = block[train].mean(0)
    norm = np.sqrt(((block[train] - centre).astype(np.float64) ** 2).sum(1).mean())
    return ((block - centre) / (norm or 1.0)).astype(np.float32)  # equal rows stay as they are


def principal_components(table: Table, count: int, train: Int[np.ndarray, "n_train"]) -> Table:
    """The first `count` principal components of the training rows' features: a linear map to a short vector."""
    space = table.space(train)
    first = first_components(space, count)
    values = space.coordinates(table.values)[:, first].astype(np.float32)
    return Table(values, values.shape[1])


def first_components(space: RowSpace | KernelSpace, count: int) -> Int[np.ndarray, "count"]:
    """The places of the largest eigenvalues, at most `count` of them, the largest first."""
    return np.argsort(-space.eigenvalues)[:count]
