"""Probes that are not linear: a linear probe on radial kernel features, and a network with one hidden layer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from covjax.errors import InputError, shown
from covjax.inputs import TableLike, check_features, exact_mean
from covjax.probes.coordinates import LinearProbe, rounding, row_space
from covjax.probes.losses import check_targets, element_weights, log_odds, sample_loss
from covjax.probes.minibatch import Budget, fit_minibatch
from covjax.standardise import live_deviation
from covjax.tokens import HIGHEST

LANDMARKS = 2048  # training samples that the kernel is taken with; with more of them it is Nyström's approximation
MULTIPLES = (0.5, 1.0, 2.0)  # of the median distance: the bandwidths that validation chooses from
HIDDEN = 128
DECAYS = (1e-2, 1e-1, 1.0)  # AdamW's, of which validation chooses
BUDGET = Budget(steps=400, learning_rate=3e-3, evaluate_every=10, patience=10)
ROWS = 1024  # most samples of a training step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RadialProbe:
    """scores = kernel(features, landmarks) @ alpha + bias, the kernel being exp(−|x − y|²/(2 width²)).

    x and y are features minus `centre`, divided by `deviation`; `landmarks` are already in this form.
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    centre: Float[np.ndarray, "p"]
    deviation: Float[np.ndarray, "p"]
    landmarks: Float[np.ndarray, "m p"]
    width: Float[np.ndarray, ""]
    alpha: Float[np.ndarray, "m k"]
    bias: Float[np.ndarray, "k"]

    def scores(self, features: TableLike) -> Float[np.ndarray, "n k"]:
        """Scores of raw features, float64; InputError for another number of features, NaN and inf."""
        x = check_features(features, columns=len(self.centre))
        return radial_kernel((x - self.centre) / self.deviation, self.landmarks, float(self.width)) @ self.alpha + (
            self.bias
        )


@dataclasses.dataclass(frozen=True)
class RadialSpace:
    """Coordinates in the space of a radial kernel: a linear probe on them is one with that kernel on the features.

    coordinates = kernel(features, landmarks) @ dual + offset, with the properties of a `Space`.
    """

    base: RadialProbe  # its alpha is `dual`, its bias the offset
    eigenvalues: Float[np.ndarray, "r"]

    def coordinates(self, features: TableLike) -> Float[np.ndarray, "n r"]:
        """Coordinates of raw features, float64; InputError as `RadialProbe.scores`."""
        return self.base.scores(features)

    def probe(self, fitted: LinearProbe) -> RadialProbe:
        """The probe on raw features whose scores are those of `fitted` on their coordinates."""
        weights = np.asarray(fitted.weights, np.float64)
        bias = np.asarray(fitted.bias, np.float64) + self.base.bias @ weights
        return dataclasses.replace(self.base, alpha=self.base.alpha @ weights, bias=bias)


def radial_kernel(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "m p"], width: float) -> Float[np.ndarray, "n m"]:
    """exp(−|x_i − y_j|²/(2 width²)), float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    distances = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(np.maximum(distances, 0) / (-2 * width**2))


def _centre_and_deviation(x: Float[np.ndarray, "n p"]) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, "p"]]:
    """Mean and deviation of every column; 1 for one that does not vary beside the others, or where none does."""
    centre = exact_mean(x)
    deviation = live_deviation(np.sqrt(np.mean((x - centre) ** 2, axis=0)))
    return centre, np.where(deviation > 0, deviation, 1.0)


def radial_space(features: TableLike, multiple: float = 1.0, landmarks: int = LANDMARKS) -> RadialSpace:
    """Fit the coordinates on training samples; the width is `multiple` times the median distance of two of them.

    Every column is standardised by the training samples. With at most `landmarks` samples the kernel is
    exact. With more, that many samples, evenly spread over the rows, are the landmarks (Nyström: Williams and Seeger
    2001). If all samples are equal there are no coordinates.

    Raises InputError for features that are not (n, p) or not finite, and a `multiple` that is not above 0.
    """
    x = check_features(features).astype(np.float64)
    if not 0 < multiple < np.inf:
        raise InputError(f"multiple: {shown(multiple)} must be a number > 0")
    n, p = x.shape
    centre, deviation = _centre_and_deviation(x)
    x = (x - centre) / deviation
    known = x[np.unique(np.linspace(0, n - 1, min(n, landmarks)).astype(int))]
    m = len(known)
    square = (known**2).sum(1)
    distances = (square[:, None] + square - 2 * known @ known.T)[np.triu_indices(m, 1)]
    apart = distances[distances > rounding(m, p) * square.max()]
    if not len(apart):
        nothing = RadialProbe(centre, deviation, known[:1], np.ones(()), np.empty((1, 0)), np.empty(0))
        return RadialSpace(nothing, np.empty(0))
    width = multiple * float(np.sqrt(np.median(apart)))
    values, vectors = np.linalg.eigh(radial_kernel(known, known, width))
    keep = values > rounding(m, m) * values[-1]
    root = vectors[:, keep] / np.sqrt(values[keep])
    inner = row_space(radial_kernel(x, known, width) @ root)
    axes = inner.axes / inner.scale
    return RadialSpace(
        RadialProbe(centre, deviation, known, np.asarray(width), root @ axes, -inner.mean @ axes), inner.eigenvalues
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NetworkProbe:
    """scores = relu((features − centre)/deviation @ hidden + hidden_bias) @ weights + bias."""

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    centre: Float[np.ndarray, "p"]
    deviation: Float[np.ndarray, "p"]
    hidden: Float[np.ndarray, "p h"]
    hidden_bias: Float[np.ndarray, "h"]
    weights: Float[np.ndarray, "h k"]
    bias: Float[np.ndarray, "k"]

    def scores(self, features: TableLike) -> Float[np.ndarray, "n k"]:
        """Scores of raw features, float64; InputError for another number of features, NaN and inf."""
        x = check_features(features, columns=len(self.centre)).astype(np.float64)
        h = np.maximum((x - self.centre) / self.deviation @ self.hidden + self.hidden_bias, 0)
        return h @ self.weights + self.bias


def empty_probe(kind: str) -> RadialProbe | NetworkProbe:
    """An empty probe of a kind (rbf or mlp), into which a checkpoint is read."""
    if kind == "rbf":
        return RadialProbe(*(np.empty(0) for _ in dataclasses.fields(RadialProbe)))
    return NetworkProbe(*(np.empty(0) for _ in dataclasses.fields(NetworkProbe)))


@dataclasses.dataclass(frozen=True)
class NetworkPath:
    """One network for every weight decay, each at its best validation step, with the value there.

    `converged`: whether the best step came before the last validation. If not, more steps might help.
    """

    probes: list[NetworkProbe]
    validation: list[float]
    converged: list[bool]


def fit_networks(
    features: TableLike,
    targets: TableLike,
    validation: TableLike,
    value: Callable[[np.ndarray], float],
    kind: str,
    decays: Sequence[float] = DECAYS,
    seed: int = 0,
    hidden: int = HIDDEN,
    budget: Budget = BUDGET,
) -> NetworkPath:
    """Train one hidden layer of ReLU units with AdamW for every weight decay, all from one start.

    Columns of features, and numbers as targets, are standardised by the training samples. A step uses
    at most 1,024 samples. Validation runs every `budget.evaluate_every` steps, and the best step is kept.

    Args:
        features: (n, p) of the training samples.
        targets: (n, k) of these: labels, one-hot classes or numbers.
        validation: (m, p) features of other samples.
        value: the metric of the scores of `validation`; higher is better.
        kind: multilabel, multiclass or regression: the loss (`covjax.probes.losses.sample_loss`).
        decays: AdamW's decoupled weight decays.
        seed: of the start and of the order of the steps.
        hidden: units.
        budget: steps, learning rate, validations.

    Raises InputError for features or targets that do not fit.
    """
    x = check_features(features).astype(np.float64)
    y, _ = check_targets(kind, targets, rows=len(x))
    others = check_features(validation, "validation", x.shape[1]).astype(np.float64)
    centre, deviation = _centre_and_deviation(x)
    x, others = (x - centre) / deviation, (others - centre) / deviation
    weights = element_weights(y, None, kind == "multiclass")
    shift, scale = np.zeros(y.shape[1]), np.ones(y.shape[1])
    if kind == "regression":
        shift, scale = y.mean(0), np.where(y.std(0) > 0, y.std(0), 1.0)
        y = (y - shift) / scale
    rng = np.random.default_rng(seed)
    start: Any = {
        "hidden": rng.standard_normal((x.shape[1], hidden)) * np.sqrt(2 / x.shape[1]),
        "hidden_bias": np.zeros(hidden),
        "weights": np.zeros((hidden, y.shape[1])),
        "bias": log_odds(kind, y, weights),
    }
    start = {name: np.repeat(array[None].astype(np.float32), len(decays), 0) for name, array in start.items()}

    def logits(parameters, batch):
        h = jnp.matmul(batch, parameters["hidden"], precision=HIGHEST) + parameters["hidden_bias"]
        return jnp.matmul(jax.nn.relu(h), parameters["weights"], precision=HIGHEST) + parameters["bias"]

    def loss(parameters, decay, inputs, truth, weight):
        return sample_loss(kind, logits(parameters, inputs), truth, weight).mean()

    parts = np.array_split(rng.permutation(len(x)), -(-len(x) // ROWS))
    batches = [tuple(each[rows].astype(np.float32) for each in (x, y, weights)) for rows in parts]
    every, held_out = jax.jit(jax.vmap(logits, in_axes=(0, None))), others.astype(np.float32)

    def validate(parameters):
        return np.array([value(np.asarray(each, np.float64) * scale + shift) for each in every(parameters, held_out)])

    fitted = fit_minibatch(
        loss, start, decays, lambda: iter(batches), validate, dataclasses.replace(budget, seed=seed), decay=True
    )
    probes = []
    for i in range(len(decays)):
        best = {name: np.asarray(array[i], np.float64) for name, array in fitted.best.items()}
        probes.append(
            NetworkProbe(
                centre,
                deviation,
                best["hidden"],
                best["hidden_bias"],
                best["weights"] * scale,
                best["bias"] * scale + shift,
            )
        )
    last = len(fitted.validation) * budget.evaluate_every
    return NetworkPath(probes, fitted.validation.max(0).tolist(), (fitted.best_step < min(last, budget.steps)).tolist())
