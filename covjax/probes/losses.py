"""The loss of each kind of task for each sample, and the weights of classes in it."""

import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from covjax.errors import InputError, shown
from covjax.inputs import TableLike, VectorLike, check_classes, check_labels, check_numbers, host_array, patterns

KINDS = ("multilabel", "multiclass", "regression")
ClassWeights = str | VectorLike | None


def sample_loss(
    kind: str, logits: Float[Array, "n k"], targets: Float[Array, "n k"], weights: Float[Array, "n k_or_1"]
) -> Float[Array, "n"]:
    """Sum over outputs of the binary cross entropy, cross entropy of the softmax, or sum of half squared errors."""
    return (weights * element_loss(kind, logits, targets)).sum(1)


def element_loss(kind: str, logits: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, "n k_or_1"]:
    """The terms of `sample_loss`: a loss for each output, or one for each sample of exclusive classes."""
    if kind == "multiclass":
        return optax.softmax_cross_entropy(logits, targets)[:, None]
    return optax.sigmoid_binary_cross_entropy(logits, targets) if kind == "multilabel" else (logits - targets) ** 2 / 2


def check_targets(
    kind: str, targets: TableLike, missing: str = "refuse", rows: int | None = None
) -> tuple[Float[np.ndarray, "n k"], Bool[np.ndarray, "n k"] | None]:
    """Targets in float64, with 0 for missing ones, and which are present (None: all); (n,) is one output.

    Raises InputError for an unknown kind, values that the kind does not have (labels other than 0 and 1, rows that are
    not one-hot), missing ones unless `missing` is "ignore", and another number of rows than `rows`.
    """
    if kind not in KINDS:
        raise InputError(f"task: {shown(kind)} is not one of {', '.join(KINDS)}")
    check = {"multilabel": check_labels, "multiclass": check_classes, "regression": check_numbers}[kind]
    y, present = check(targets, missing=missing, rows=rows)
    return y.astype(np.float64), present


def check_varied(kind: str, y: Float[np.ndarray, "n k"], present: Bool[np.ndarray, "n k"] | None) -> None:
    """Raise InputError for an output of the training rows with a single value, or with none."""
    here = np.ones(y.shape, bool) if present is None else present
    low, high = np.where(here, y, np.inf).min(0), np.where(here, y, -np.inf).max(0)
    single = np.flatnonzero(low >= high)
    if len(single):
        kinds = "is constant" if kind == "regression" else "has one class only"
        raise InputError(f"targets: column {single[0]} {kinds} in the {int(here[:, single[0]].sum())} training rows")


def element_weights(
    targets: Float[np.ndarray, "n k"],
    class_weights: ClassWeights,
    exclusive: bool,
    present: Bool[np.ndarray, "n k"] | None = None,
) -> Float[np.ndarray, "n k_or_1"]:
    """Weights of every sample's loss: one for each output, or one for each sample if classes are exclusive.

    "balanced" gives each class, and each side of a label, the same total: n / (classes · count), as in scikit-learn. A
    vector gives the weight of each class, or of each label's positives (negatives keep 1). None: ones.

    Where targets are missing (`present`, see `check_targets`) the weight is 0, and the output's other weights grow by
    n over the number of its rows: a mean over all n samples is then the mean over the rows that the output has.
    Raises InputError for anything else.
    """
    y = np.asarray(targets, np.float64)
    if present is not None:
        here = np.asarray(present.any(1, keepdims=True) if exclusive else present)
        weights = np.zeros(here.shape)
        for rows, columns in patterns(here):
            part = y[rows] if exclusive else y[rows][:, columns]
            plain = exclusive or class_weights is None or isinstance(class_weights, str)
            chosen = class_weights if plain else _vector(class_weights, y)[columns]
            weights[np.ix_(rows, columns)] = element_weights(part, chosen, exclusive) * (len(y) / rows.sum())
        return weights
    n, k = y.shape
    if class_weights is None:
        return np.ones((n, 1 if exclusive else k))
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise InputError(
                f"class_weights: {shown(class_weights)} is not 'balanced', None or a vector of {k} numbers"
            )
        counts = y.sum(0)
        if exclusive:
            return (y @ (n / (k * counts)))[:, None]
        return np.where(y > 0, n / (2 * counts), n / (2 * (n - counts)))
    vector = _vector(class_weights, y)
    return (y @ vector)[:, None] if exclusive else np.where(y > 0, vector, 1.0)


def _vector(class_weights, y: np.ndarray) -> np.ndarray:
    vector, k = host_array(class_weights, "class_weights").astype(np.float64), y.shape[1]
    if vector.shape != (k,) or not (np.isfinite(vector) & (vector > 0)).all():
        raise InputError(f"class_weights: shape {vector.shape} must be ({k},), finite and > 0")
    return vector


def log_odds(kind: str, targets: Float[np.ndarray, "n k"], weights: Float[np.ndarray, "n k_or_1"]) -> np.ndarray:
    """The bias that is optimal without features, from which training starts."""
    mean = (weights * targets).sum(0) / (weights * np.ones_like(targets)).sum(0)
    if kind == "regression":
        return mean
    return np.log(mean) if kind == "multiclass" else np.log(mean / (1 - mean))
