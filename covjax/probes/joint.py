"""Ridge from the moments of features and targets together: what many devices or hosts can add up."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.inputs import check_penalties
from covjax.moments import Moments
from covjax.probes.rowspace import LinearProbe


def fit_ridge_moments(joint: Moments, outputs: int, penalties: Sequence[float]) -> list[LinearProbe]:
    """`fit_ridge_path` from the moments of the rows [x, y], one probe on raw features per penalty.

    The moments may come from `moments`, `streaming_moments`, or over many devices and hosts `sharded_moments`, each
    adding its own rows. They are float32, centred exactly: the weights equal those of `fit_ridge_path` up to about
    1e-6 / λ of their size.

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
    penalties: Sequence[float],
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
