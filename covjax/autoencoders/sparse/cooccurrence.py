"""Sparse co-occurrence: the second moment of a sequence's latents, kept for the pairs that are active together.

Z = Σ_t w_t z_t z_tᵀ / n of `latents` latents has latents² entries, of which a sequence fills those of its active pairs:
at most tokens · k(k + 1)/2. Only these are kept, so memory does not grow with latents². All on the host, in NumPy.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from covjax.errors import InputError
from covjax.inputs import TableLike, VectorLike, host_array


def cooccurrence(
    values: TableLike,
    indices: TableLike,
    latents: int,
    weights: VectorLike = None,
) -> tuple[Int[np.ndarray, "pairs"], Float[np.ndarray, "pairs"]]:
    """Keys i · latents + j of the active pairs i <= j of one sequence, ascending, and Σ w z_i z_j / n.

    Args:
        values, indices: sparse codes, as `TopK.codes` gives; places of value 0 are empty.
        latents: number of latents, above every index.
        weights: >= 0, 0 on masked tokens; None counts every token once.

    Raises InputError for shapes that do not fit, an index out of range, and no token of weight above 0.
    """
    values, indices = host_array(values, "values").astype(np.float64), host_array(indices, "indices")
    if indices.dtype.kind not in "iu":
        raise InputError(f"indices must be whole numbers, got {indices.dtype}")
    indices = indices.astype(np.int64)
    w = np.ones(len(values)) if weights is None else host_array(weights, "weights").astype(np.float64)
    if values.ndim != 2 or values.shape != indices.shape or w.shape != values.shape[:1]:
        raise InputError(f"values, indices and weights do not fit: {values.shape}, {indices.shape}, {w.shape}")
    if not (np.isfinite(w).all() and (w >= 0).all() and w.any()):
        raise InputError("weights must be finite, >= 0 and not all 0")
    if indices.size and not 0 <= indices.min() <= indices.max() < latents:
        raise InputError(f"indices must be from 0 to {latents - 1}, got {indices.min()} to {indices.max()}")
    total = w.sum()
    values, indices, w = values[w > 0], indices[w > 0], w[w > 0]
    order = np.argsort(indices, axis=1)
    values, indices = np.take_along_axis(values, order, 1), np.take_along_axis(indices, order, 1)
    left, right = np.triu_indices(values.shape[1])
    product = values[:, left] * values[:, right] * (w / total)[:, None]
    keys = indices[:, left] * latents + indices[:, right]
    active = product != 0
    keys, where = np.unique(keys[active], return_inverse=True)
    return keys, np.bincount(where, product[active], len(keys)).astype(np.float32)


def stack(moments: Iterable[tuple[Int[np.ndarray, "_"], Float[np.ndarray, "_"]]], latents: int) -> sparse.csr_matrix:
    """Sparse matrix (sequences, latents²), one row of `cooccurrence` each, off-diagonal pairs times √2.

    So rows multiply as the moments do: ⟨Z_i, Z_j⟩_F, as in `covjax.vectorize`. Memory goes with the active pairs.
    """
    keys: list[np.ndarray] = []
    values: list[np.ndarray] = []
    ends = [0]
    for pair, value in moments:
        keys.append(pair)
        values.append(np.where(pair // latents == pair % latents, 1, np.sqrt(2)) * value)
        ends.append(ends[-1] + len(pair))
    if not keys:
        raise InputError("moments: none given")
    shape = (len(keys), latents * latents)
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(keys), np.array(ends)), shape)


def cooccurrence_kernel(left: sparse.csr_matrix, right: sparse.csr_matrix | None = None) -> Float[np.ndarray, "n m"]:
    """⟨Z_i, Z_j⟩_F between the rows of two `stack`s: ridge in the dual on it is a probe on all pairs."""
    return np.asarray((left @ (left if right is None else right).T).todense())


def frequent_pairs(stacked: sparse.csr_matrix, count: int, latents: int) -> Int[np.ndarray, "count 2"]:
    """The pairs (i, j), i <= j, that are active in the most sequences; ties go to the first pairs.

    Choose on training sequences; `stacked[:, keys]` are then their features, and the pooler `sae_cooccurrence` the same
    on a device. Raises InputError where fewer pairs than `count` were ever active.
    """
    keys, number = np.unique(stacked.indices, return_counts=True)
    if not 1 <= count <= len(keys):
        raise InputError(f"count must be from 1 to the number of active pairs, {len(keys)}, got {count}")
    chosen = np.sort(keys[np.argsort(-number, kind="stable")[:count]])
    return np.stack([chosen // latents, chosen % latents], axis=1)
