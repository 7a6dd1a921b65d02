"""Multi-output ridge regression: the whole penalty path in closed form."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.probes.rowspace import LinearProbe
from covjax.probes.space import Probe, Space


def fit_ridge_path(
    space: Space[Probe],
    coordinates: Float[np.ndarray, "n r"],
    targets: Float[np.ndarray, "n k"],
    penalties: Sequence[float],
) -> list[Probe]:
    """Minimise |Y − XW − b|²/n + λ|W|² for every λ, the intercept b unpenalised (Hoerl & Kennard 1970).

    In the coordinates Z of `space`, ZᵀZ/n is diagonal, so each λ costs one division: W = (ZᵀY/n) / (s + λ). λ is
    relative to the mean squared norm of the centred features (see `RowSpace`).
    Returns one probe per λ on what `space.coordinates` takes: raw features (`LinearProbe`) or kernel rows
    (`DualProbe`).
    Raises InputError for targets that are not finite or of the wrong length, and for penalties that are not positive.
    """
    path = ridge_path(space.eigenvalues, coordinates, targets, penalties)
    return [space.probe(fitted) for fitted in path]


def ridge_path(
    eigenvalues: Float[np.ndarray, "r"],
    coordinates: Float[np.ndarray, "n r"],
    targets: Float[np.ndarray, "n k"],
    penalties: Sequence[float],
) -> list[LinearProbe]:
    """The path of `fit_ridge_path` as probes on coordinates: cheap to score where features are many.

    `space.probe(fitted)` makes the chosen one a probe on features or kernel rows. Raises like `fit_ridge_path`.
    """
    y = np.asarray(targets, np.float64)
    if len(y) != len(coordinates) or not np.isfinite(y).all():
        raise InputError(f"targets: shape {y.shape} must have {len(coordinates)} rows of finite numbers")
    if min(penalties) <= 0:
        raise InputError(f"penalties: {min(penalties)} must be > 0")
    mean = y.mean(0)
    cross = coordinates.T @ (y - mean) / len(y)
    return [LinearProbe(cross / (eigenvalues[:, None] + penalty), mean) for penalty in penalties]
