"""How much two trainings of the same autoencoder have in common, and how much they would by chance."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.optimize import linear_sum_assignment

from covjax.errors import InputError
from covjax.inputs import TableLike, exact_mean, host_array


def matched_cosines(
    left: Float[np.ndarray, "latents features"], right: Float[np.ndarray, "latents features"]
) -> Float[np.ndarray, "latents"]:
    """Cosine of every row of `left` with its partner in `right`, in the one-to-one matching with the largest sum.

    The Hungarian method matches every row at most once. The order of the rows does not matter, but their sign does:
    latents are not negative, so a direction and its opposite are two features. A row of zeros has cosine 0.
    Raises InputError for other shapes, and NaN or inf.
    """
    left, right = _check(left, right)
    cosines = _unit(left) @ _unit(right).T
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return np.minimum(cosines[rows, columns], 1)


def max_cosines(left: TableLike, right: TableLike) -> Float[np.ndarray, "latents"]:
    """Cosine of every row of `left` with the row of `right` that is nearest to it; their mean is the mean max cosine.

    Unlike in `matched_cosines`, several rows may share one, and the two may have different numbers of rows. It takes
    time and memory in proportion to latents · others, in blocks. A row of zeros has cosine 0.
    Raises InputError for other shapes, and NaN or inf.
    """
    left, right = (host_array(each, name).astype(np.float64) for each, name in ((left, "left"), (right, "right")))
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or 0 in (*left.shape, *right.shape):
        raise InputError(f"left and right must be matrices of one width, got {left.shape} and {right.shape}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError("left and right must be finite, got NaN or inf")
    left, right = _unit(left), _unit(right)
    step = max(1, 2**24 // len(right))
    parts = [(left[start : start + step] @ right.T).max(1) for start in range(0, len(left), step)]
    return np.minimum(np.concatenate(parts), 1)


def random_cosines(latents: int, features: int, seed: int = 0) -> Float[np.ndarray, "latents"]:
    """`matched_cosines` of two random dictionaries of that size: what to expect by chance."""
    rng = np.random.default_rng(seed)
    return matched_cosines(*rng.normal(size=(2, latents, features)))


def share_above(cosines: Float[np.ndarray, "latents"], threshold: float) -> float:
    """Share of the matched latents whose cosine is above `threshold`."""
    return float(np.mean(cosines > threshold))


def principal_angles(
    left: Float[np.ndarray, "features rank"], right: Float[np.ndarray, "features rank"]
) -> Float[np.ndarray, "rank"]:
    """Angles in radians between the spans of the columns, ascending (Björck and Golub 1973; exact for small ones too).

    Raises InputError for other shapes, and NaN or inf.
    """
    left, right = _check(left, right)
    return subspace_angles(left, right)[::-1]


def procrustes_distance(left: Float[np.ndarray, "n k"], right: Float[np.ndarray, "n k"]) -> float:
    """min_R ‖X − Y R‖_F / ‖X‖_F over orthogonal R, for embeddings of the same n sequences, each centred first.

    0 for embeddings that differ by a rotation or a reflection, √2 for unrelated ones of equal size in many dimensions.
    Raises InputError for other shapes, NaN or inf, and embeddings X that are all the same.
    """
    x, y = (a - exact_mean(a) for a in _check(left, right))
    if not (size := np.linalg.norm(x)):
        raise InputError("left must vary over its rows")
    rotation, _ = orthogonal_procrustes(y, x)
    return float(np.linalg.norm(x - y @ rotation) / size)


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)


def _check(left, right) -> tuple[np.ndarray, np.ndarray]:
    left, right = host_array(left, "left").astype(np.float64), host_array(right, "right").astype(np.float64)
    if left.ndim != 2 or left.shape != right.shape or 0 in left.shape:
        raise InputError(f"left and right must be matrices of one shape, got {left.shape} and {right.shape}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError("left and right must be finite, got NaN or inf")
    return left, right
