"""Ridge probes over a path of penalties, from features or from moments."""

import numpy as np
from jaxtyping import Bool, Float

from covjax.errors import InputError
from covjax.inputs import NumbersLike, TableLike, VectorLike, check_features, check_numbers, check_penalties, patterns
from covjax.moments import Moments
from covjax.probes.coordinates import LinearProbe, Probe, Space, check_eigenvalues, row_blocks, row_space


def fit_ridge_path(
    space: Space[Probe],
    coordinates: TableLike,
    targets: TableLike,
    penalties: NumbersLike,
    missing: str = "refuse",
) -> list[Probe]:
    """Minimise |Y − XW − b|²/n + λ|W|² for every λ, the intercept b unpenalised (Hoerl & Kennard 1970).

    In the coordinates Z of `space`, ZᵀZ/n is diagonal, so each λ costs one division: W = (ZᵀY/n) / (s + λ). λ is
    relative to the mean squared norm of the centred features (see `RowSpace`).
    Targets (n,) are one output. NaN targets are refused. With `missing="ignore"` they are left out: an output is then
    fitted on the rows that it has, with n their number and λ still relative to all training samples.

    Returns one probe per λ, with the same inputs as `space.coordinates`: raw features (`LinearProbe`) or kernel rows
    (`DualProbe`).
    Raises InputError for targets that are not finite or of the wrong length, outputs with fewer than two values, and
    penalties that are not positive.
    """
    path = ridge_path(space.eigenvalues, coordinates, targets, penalties, missing)
    return [space.probe(fitted) for fitted in path]


def ridge_path(
    eigenvalues: VectorLike,
    coordinates: TableLike,
    targets: TableLike,
    penalties: NumbersLike,
    missing: str = "refuse",
) -> list[LinearProbe]:
    """The path of `fit_ridge_path` as probes on coordinates: cheap to score if there are many features.

    `space.probe(fitted)` turns the chosen one into a probe on features or kernel rows. Raises like `fit_ridge_path`.
    """
    eigenvalues = check_eigenvalues(eigenvalues)
    z = check_features(coordinates, "coordinates", len(eigenvalues))
    y, present = check_numbers(targets, missing=missing, rows=len(z))
    penalties = check_penalties(penalties)
    if present is None:
        return _path(eigenvalues, z, y, penalties)
    check_present(present)
    weights = np.empty((len(penalties), z.shape[1], y.shape[1]))
    bias = np.empty((len(penalties), y.shape[1]))
    for rows, columns in patterns(present):
        path = _path_of_rows(eigenvalues, z, y[:, columns], penalties, rows)
        for i, probe in enumerate(path):
            weights[i][:, columns], bias[i, columns] = probe.weights, probe.bias
    return [LinearProbe(*each) for each in zip(weights, bias)]


def check_present(present: Bool[np.ndarray, "n k"]) -> None:
    """Raise InputError for an output with fewer than two values."""
    if len(few := np.flatnonzero(present.sum(0) < 2)):
        count = int(present[:, few[0]].sum())
        raise InputError(f"targets: column {few[0]} has {count} values that are not NaN; a fit needs at least 2")


def _path(eigenvalues, z, y, penalties) -> list[LinearProbe]:
    mean = y.mean(0)
    cross = sum(z[part].astype(np.float64).T @ (y[part] - mean) for part in row_blocks(*z.shape)) / len(y)
    return [LinearProbe(cross / (eigenvalues[:, None] + penalty), mean) for penalty in penalties]


def _path_of_rows(eigenvalues, z, y, penalties, rows) -> list[LinearProbe]:
    """Of some rows: their coordinates have a centre, a scale and axes of their own."""
    if rows.all():
        return _path(eigenvalues, z, y, penalties)
    space = row_space(z[rows])
    strengths = [penalty / float(space.scale) ** 2 for penalty in penalties]
    return [space.probe(probe) for probe in _path(space.eigenvalues, space.coordinates(z[rows]), y[rows], strengths)]


def fit_ridge_moments(joint: Moments, outputs: int, penalties: NumbersLike) -> list[LinearProbe]:
    """`fit_ridge_path` from the moments of the rows [x, y], one probe on raw features per penalty.

    The moments may come from `moments`, from `streaming_moments`, or from `sharded_moments`, where each device and host
    adds its own rows. They are float32 and exactly centred: the weights agree with those of `fit_ridge_path` up to
    about 1e-6 / λ of their size.

    Args:
        joint: moments of p features followed by k targets in one row.
        outputs: k.
        penalties: λ > 0, relative to the mean squared norm of the centred features.

    Raises:
        InputError: outputs out of range, penalties not positive, moments that are not finite, features that do not
            vary.
    """
    width = len(joint.mean)
    if not 1 <= outputs < width:
        raise InputError(f"outputs: {outputs} is not in 1 … {width - 1} (columns of the moments less one)")
    count, mean, scatter = (np.asarray(leaf, np.float64) for leaf in (joint.count, joint.mean, joint.scatter))
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise InputError(
            "joint: NaN or inf in the moments, so also in the features or targets; rows with a missing target are left "
            'out before, or fitted by fit_ridge_path(…, missing="ignore")'
        )
    p = width - outputs
    return solve_ridge(scatter[:p, :p] / count, scatter[:p, p:] / count, mean[:p], mean[p:], float(count), penalties)


def solve_ridge(
    covariance: Float[np.ndarray, "p p"],
    cross: Float[np.ndarray, "p k"],
    mean: Float[np.ndarray, "p"],
    target: Float[np.ndarray, "k"],
    count: float,
    penalties: NumbersLike,
) -> list[LinearProbe]:
    """The path from the features' covariance, their covariance with the targets, and the means of both (float64)
    over `count` samples.

    Raises InputError for penalties that are not positive and features that do not vary.
    """
    penalties = check_penalties(penalties)
    square = float(np.trace(covariance))
    if not square > 0:
        raise InputError(f"features: all {count:g} training samples are equal; nothing to fit")
    values, vectors = np.linalg.eigh(covariance / square)
    rotated = vectors.T @ cross / square
    path = [vectors @ (rotated / (values.clip(0)[:, None] + penalty)) for penalty in penalties]
    return [LinearProbe(weights, target - mean @ weights) for weights in path]
