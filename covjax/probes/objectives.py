"""What each kind of task is trained on: its loss for each sample, and the classes' weights in it."""

import numpy as np
import optax
from jaxtyping import Array, Float

from covjax.errors import InputError

KINDS = ("multilabel", "multiclass", "regression")
ClassWeights = str | Float[np.ndarray, "k"] | None


def sample_loss(
    kind: str, logits: Float[Array, "n k"], targets: Float[Array, "n k"], weights: Float[Array, "n k_or_1"]
) -> Float[Array, "n"]:
    """Sum over outputs of the binary cross entropy, cross entropy of the softmax, or sum of half squared errors."""
    if kind == "multiclass":
        return weights[:, 0] * optax.softmax_cross_entropy(logits, targets)
    each = optax.sigmoid_binary_cross_entropy(logits, targets) if kind == "multilabel" else (logits - targets) ** 2 / 2
    return (weights * each).sum(1)


def check_targets(kind: str, targets: np.ndarray) -> Float[np.ndarray, "n k"]:
    """Training targets in float64.

    Raises InputError for an unknown kind, targets that are not (n, k) finite numbers, an output with a single value.
    """
    if kind not in KINDS:
        raise InputError(f"task: {kind!r} is not one of {', '.join(KINDS)}")
    y = np.asarray(targets, np.float64)
    if y.ndim != 2 or not len(y) or not np.isfinite(y).all():
        raise InputError(f"targets: shape {y.shape} must be (n >= 1, k), finite numbers")
    single = np.flatnonzero((y == y[:1]).all(0))
    if len(single):
        kinds = "is constant" if kind == "regression" else "has one class only"
        raise InputError(f"targets: column {single[0]} {kinds} in the {len(y)} training rows")
    return y


def element_weights(
    targets: Float[np.ndarray, "n k"], class_weights: ClassWeights, exclusive: bool
) -> Float[np.ndarray, "n k_or_1"]:
    """Weights of every sample's loss: one for each output, or one for each sample where classes are exclusive.

    "balanced" gives each class, and each side of a label, the same total: n / (classes · count), as in scikit-learn. A
    vector gives the weight of each class, or of each label's positives (negatives keep 1). None: ones.

    Raises InputError for anything else.
    """
    y = np.asarray(targets, np.float64)
    n, k = y.shape
    if class_weights is None:
        return np.ones((n, 1 if exclusive else k))
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise InputError(f"class_weights: {class_weights!r} is not 'balanced', None or a vector of {k} numbers")
        counts = y.sum(0)
        if exclusive:
            return (y @ (n / (k * counts)))[:, None]
        return np.where(y > 0, n / (2 * counts), n / (2 * (n - counts)))
    vector = np.asarray(class_weights, np.float64)
    if vector.shape != (k,) or not (np.isfinite(vector) & (vector > 0)).all():
        raise InputError(f"class_weights: shape {vector.shape} must be ({k},), finite and > 0")
    return (y @ vector)[:, None] if exclusive else np.where(y > 0, vector, 1.0)


def log_odds(kind: str, targets: Float[np.ndarray, "n k"], weights: Float[np.ndarray, "n k_or_1"]) -> np.ndarray:
    """The bias that is optimal without features: where training starts."""
    mean = (weights * targets).sum(0) / (weights * np.ones_like(targets)).sum(0)
    if kind == "regression":
        return mean
    return np.log(mean) if kind == "multiclass" else np.log(mean / (1 - mean))
