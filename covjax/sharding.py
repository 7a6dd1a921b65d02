"""One long sequence or table is spread over the devices of a mesh; statistics are those of all its rows.

Only d × d statistics are sent between devices, never rows. The caller makes the mesh, of one process or many.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from covjax.errors import InputError
from covjax.inputs import VectorLike
from covjax.moments import Moments, moments, psum_merge
from covjax.projected import projected_moment


def shard_rows(
    arrays: Sequence[Shaped[np.ndarray, "_ ..."]],
    weights: VectorLike | None = None,
    *,
    mesh: Mesh,
    axis: str,
) -> tuple[list[Shaped[Array, "all_rows ..."]], Float[Array, "all_rows"]]:
    """Global arrays split by rows over a mesh axis, with their weights; every process passes its own rows.

    Rows of weight 0 fill up what cannot be divided, so processes may have different numbers of rows, even none.
    All processes of the mesh must call this together.

    Args:
        arrays: of equal numbers of rows.
        weights: >= 0, of the rows; None counts every row once.
        mesh: every process has its own part of `axis`, and all parts have the same size.
        axis: name of a mesh axis.

    Raises:
        InputError: an axis that the mesh does not have, or that the processes do not share evenly; unequal numbers of
            rows; bad weights; no weight above 0 in any process.
    """
    if axis not in mesh.axis_names:
        raise InputError(f"axis: {axis!r} is not one of the mesh's: {', '.join(map(str, mesh.axis_names))}")
    rows = {len(array) for array in arrays}
    if len(rows) != 1:
        raise InputError(f"arrays: need one number of rows, got {sorted(rows)}")
    count = rows.pop()
    w = np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)
    if w.shape != (count,) or not (np.isfinite(w) & (w >= 0)).all():
        raise InputError(f"weights: must be {count} finite numbers >= 0, got shape {w.shape}, smallest {np.min(w)}")
    parts = own_parts(mesh, axis)
    # The checks above may stop one process while the others wait here; how a job then ends is `distributed.job`'s.
    everywhere = multihost_utils.process_allgather(np.array([count, w.any()], np.int32))
    longest, any_weight = np.max(np.atleast_2d(everywhere), axis=0)
    if not any_weight:
        raise InputError("weights: no row with a weight above 0")
    padded = -(-longest // parts) * parts
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    total = padded * mesh.shape[axis] // parts
    *placed, spread = [
        jax.make_array_from_process_local_data(sharding, _fill(array, padded), (total, *array.shape[1:]))
        for array in (*arrays, w)
    ]
    return placed, spread


def _fill(array: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)) if len(array) < rows else array


@functools.partial(jax.jit, static_argnames=("mesh", "axis"))
def sharded_moments(
    x: Float[Array, "tokens features"], weights: Float[Array, "tokens"], *, mesh: Mesh | AbstractMesh, axis: str
) -> Moments:
    """`moments` of one sequence whose tokens `shard_rows` spread over a mesh axis, the same on every device.

    Each device computes moments of its own tokens; counts, means and scatters merge by Chan, Golub, LeVeque (1983).

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes, or tokens that cannot be divided over the axis (`shard_rows` fills them up).
    """
    rows = _rows(x, mesh, axis)

    def merged(x, w):
        return psum_merge(moments(x, w), axis)

    return jax.shard_map(merged, mesh=mesh, in_specs=(rows, rows), out_specs=PartitionSpec())(x, weights)


@functools.partial(jax.jit, static_argnames=("mesh", "axis", "center"))
def sharded_projected_moment(
    x: Float[Array, "tokens features"],
    left: Float[Array, "features rank_a"],
    right: Float[Array, "features rank_b"] | None,
    weights: Float[Array, "tokens"],
    *,
    mesh: Mesh | AbstractMesh,
    axis: str,
    center: str | None = None,
) -> Float[Array, "rank_a rank_b"]:
    """`projected_moment` of one sequence whose tokens `shard_rows` spread over a mesh axis, the same on every device.

    `center` is None or "sequence", the mean of all tokens. Raises like `projected_moment`, and InputError for tokens
    that cannot be divided over the axis (`shard_rows` fills them up).
    """
    rows, whole = _rows(x, mesh, axis), PartitionSpec()

    def summed(x, left, right, w):
        return projected_moment(x, left, right, w, center=center, axis_name=axis)

    spread = jax.shard_map(summed, mesh=mesh, in_specs=(rows, whole, whole, rows), out_specs=whole)
    return spread(x, left, right, weights)


def _rows(x: Array, mesh: Mesh | AbstractMesh, axis: str) -> PartitionSpec:
    if axis not in mesh.axis_names or x.shape[0] % mesh.shape[axis]:
        raise InputError(
            f"x: {x.shape[0]} tokens cannot be divided over the axis {axis!r} of {dict(mesh.shape)}; see shard_rows"
        )
    return PartitionSpec(axis)


def own_parts(mesh: Mesh, axis: str) -> int:
    """Positions of `axis` on this process; InputError if the processes do not share them evenly."""
    lines = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), 0).reshape(mesh.shape[axis], -1)
    owners = [{device.process_index for device in line} for line in lines]
    counts = {index: owners.count({index}) for index in set().union(*owners)}
    if any(len(owner) > 1 for owner in owners) or len(set(counts.values())) > 1:
        raise InputError(f"mesh: the processes must share out the axis {axis!r} evenly, got positions {counts}")
    return counts[jax.process_index()]
