"""Logistic regression on rows that are spread over the devices of a mesh, of one process or of many."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float

from covjax.distributed import agree, gather
from covjax.errors import InputError
from covjax.inputs import check_penalties, host_array
from covjax.moments import Moments
from covjax.probes.logistic import LogisticPath, curvature_of, path_of, solve_path, width_of
from covjax.probes.objectives import ClassWeights, check_targets, check_varied, element_weights, log_odds
from covjax.probes.rowspace import LinearProbe, RowSpace, rounding
from covjax.sharding import shard_rows, sharded_moments


def space_of_moments(moments: Moments, rank_tolerance: float | None = None) -> RowSpace:
    """`row_space` from the moments of the features, of which there are fewer than samples.

    The moments are float32: eigenvalues below 1e-7 of the largest are about right only where features that differ in
    size are little correlated. A logistic fit needs the axes alone, so no direction is left out for that.
    Raises InputError for moments that are not finite, and features that do not vary.
    """
    count, mean, scatter = (np.asarray(leaf, np.float64) for leaf in (moments.count, moments.mean, moments.scatter))
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise InputError("features: NaN or inf among their moments")
    square = float(np.trace(scatter) / count)
    if not square > 0:
        raise InputError(f"features: all {count:g} training samples are equal; nothing to fit")
    values, vectors = np.linalg.eigh(scatter / (count * square))
    keep = values > (rank_tolerance or rounding(len(values), 0)) * values[-1]
    return RowSpace(mean, np.asarray(np.sqrt(square)), vectors[:, keep], values[keep])


def fit_logistic_rows(
    features: Float[np.ndarray, "rows p"],
    targets: Bool[np.ndarray, "rows k"],
    penalties: Sequence[float],
    exclusive: bool,
    *,
    mesh: Mesh,
    axis: str,
    tolerance: float = 3e-5,
    max_iterations: int = 300,
    class_weights: ClassWeights = None,
    missing: str = "refuse",
) -> LogisticPath[LinearProbe]:
    """`fit_logistic_path` on the rows of all processes; every process gives its own and gets the same probes.

    No process holds the features of another: their moments add up to the space, in which every device multiplies its
    own rows. The targets of all rows go to all processes. Made for p well below the number of rows: a p × p
    eigendecomposition is every process's own. All must call this together.

    Args:
        features, targets: this process's rows, possibly none.
        missing: see `fit_logistic_path`.
        mesh, axis: see `covjax.sharding.shard_rows`.

    Raises like `fit_logistic_path` and `shard_rows`.
    """
    mesh = Mesh(mesh.devices, mesh.axis_names)  # axes that XLA sees to, as `jax.make_mesh`'s may not be
    features, own_targets = host_array(features, "features"), host_array(targets, "targets").astype(np.float64)
    own_targets = own_targets[:, None] if own_targets.ndim == 1 else own_targets
    if features.ndim != 2 or len(own_targets) != len(features):
        raise InputError(f"targets: {len(own_targets)} rows, but features have shape {features.shape}")
    penalties = check_penalties(penalties)
    kind = "multiclass" if exclusive else "multilabel"
    y, present = check_targets(kind, gather(own_targets), missing)
    check_varied(kind, y, present)
    importance = element_weights(y, class_weights, exclusive, present)
    begin = int(gather(np.array([len(features)]))[: jax.process_index()].sum())
    own = slice(begin, begin + len(features))

    (rows,), ones = shard_rows([np.asarray(features, np.float32)], mesh=mesh, axis=axis)
    space = agree(space_of_moments(sharded_moments(rows, ones, mesh=mesh, axis=axis)))
    r = len(space.eigenvalues)
    width = width_of(r, len(y))
    z = space.coordinates(features) if len(features) else np.zeros((0, r))
    z = np.pad(z.astype(np.float32), ((0, 0), (0, width - r)))
    placed, _ = shard_rows([z, y[own].astype(np.float32), importance[own].astype(np.float32)], mesh=mesh, axis=axis)
    start = log_odds(kind, y, importance).astype(np.float32)
    order = np.argsort(penalties)[::-1]
    strengths = np.asarray(penalties, np.float32)[order]
    numbers = start, curvature_of(space.eigenvalues, width), strengths, np.float32(len(y))
    with jax.enable_x64(False):  # as in `logistic_path`
        solution = _everywhere(mesh)(*placed, *numbers, kind, tolerance, max_iterations)
    path = path_of(jax.device_get(solution), r, order)
    return LogisticPath([space.probe(probe) for probe in path.probes], path.gradient, path.iterations)


@functools.cache
def _everywhere(mesh: Mesh):
    """The solver with rows where they lie and its results on every device."""
    return jax.jit(solve_path, static_argnums=(7, 8, 9), out_shardings=NamedSharding(mesh, PartitionSpec()))
