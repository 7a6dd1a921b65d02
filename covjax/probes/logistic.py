"""Logistic probes over a path of penalties, and the same with rows spread over devices."""

import dataclasses
import functools
import math
import numbers
from typing import Generic

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from covjax.errors import InputError, shown
from covjax.inputs import NumbersLike, TableLike, check_features, check_penalties, check_whole, host_array
from covjax.jobs.distributed import agree, gather
from covjax.moments import Moments
from covjax.probes.coordinates import LinearProbe, Probe, RowSpace, Space, check_eigenvalues, rounding
from covjax.probes.losses import ClassWeights, check_targets, check_varied, element_weights, log_odds, sample_loss
from covjax.sharding import shard_rows, sharded_moments
from covjax.tokens import HIGHEST

# Coordinates are padded with zero columns to one of these counts, or to the number of samples: zero columns change no
# optimum, and feature sets of similar size share a compilation.
WIDTHS = (16, 64, 256, 1024)
ROWS = 64  # samples are filled up to a multiple, under importance 0: the folds of a table share a program
CHEAP = 2**17  # numbers of coordinates that cost less, multiplied at every step, than a program for fewer columns
_LARGE = 2**29  # bytes of coordinates from which on a compilation saved is worth less than the columns
LEAST_VARIANCE = 1e-6  # of an output's labels, which its bias is divided by the root of
EARLIER = 8  # times the tolerance, a gradient entry over the root of its own curvature may be
LEAST = 1e-30  # penalty, and one over the largest: they and their inverses are float32


@dataclasses.dataclass(frozen=True)
class LogisticPath(Generic[Probe]):
    """One probe per penalty, with the largest gradient entry at which L-BFGS stopped and its iterations."""

    probes: list[Probe]
    gradient: list[float]
    iterations: list[int]


def fit_logistic_path(
    space: Space[Probe],
    coordinates: TableLike,
    targets: TableLike,
    penalties: NumbersLike,
    exclusive: bool,
    tolerance: float = 3e-5,
    max_iterations: int = 300,
    class_weights: ClassWeights = None,
    missing: str = "refuse",
) -> LogisticPath[Probe]:
    """Minimise mean loss + λ|W|²/2 for every λ with `optax.lbfgs`, the bias unpenalised, all outputs jointly.

    The loss is the cross entropy of the softmax if `exclusive`, otherwise the sum over outputs of the binary cross
    entropy. λ is relative to the mean squared norm of the centred features (see `RowSpace`). The path runs from the
    strongest penalty to the weakest, and each solution is the start of the next. Each coordinate of each output is
    divided by the square root of its curvature at that start, so 5-90 iterations are enough at any condition number. It
    ends where no gradient entry, over the root of the curvature bound eigenvalue/4 + λ, is above `tolerance`, and none,
    over the root of its curvature at the start, above 8 times that, which rare labels need.
    `class_weights` multiplies the losses (see `losses.element_weights`).

    Targets are booleans or 0 and 1; (n,) is one label. NaN targets are refused. With `missing="ignore"` they are left
    out: the mean loss of a label is then over the rows that it has. For exclusive classes a whole row is missing.

    Returns probes with the same inputs as `space.coordinates`: raw features (`LinearProbe`) or kernel rows
    (`DualProbe`).
    Raises InputError for targets of the wrong length or other than 0 and 1, class numbers, an output without both
    classes, penalties not positive, or class weights that do not fit.
    """
    path = logistic_path(
        space.eigenvalues, coordinates, targets, penalties, exclusive, tolerance, max_iterations, class_weights, missing
    )
    return LogisticPath([space.probe(fitted) for fitted in path.probes], path.gradient, path.iterations)


def logistic_path(
    eigenvalues: Float[np.ndarray, "r"],
    coordinates: TableLike,
    targets: TableLike,
    penalties: NumbersLike,
    exclusive: bool,
    tolerance: float = 3e-5,
    max_iterations: int = 300,
    class_weights: ClassWeights = None,
    missing: str = "refuse",
) -> LogisticPath[LinearProbe]:
    """The path of `fit_logistic_path` as probes on coordinates: cheap to score if there are many features.

    `space.probe(fitted)` turns the chosen one into a probe on features or kernel rows. Raises like `fit_logistic_path`.
    """
    check_stop(tolerance, max_iterations)
    eigenvalues = check_eigenvalues(eigenvalues)
    coordinates = check_features(coordinates, "coordinates", len(eigenvalues))
    kind = "multiclass" if exclusive else "multilabel"
    y, present = check_targets(kind, targets, missing, len(coordinates))
    check_varied(kind, y, present)
    penalties = check_penalties(penalties, least=LEAST, most=1 / LEAST)
    r = coordinates.shape[1]
    rows = -(-len(y) // ROWS) * ROWS
    width = width_of(r, rows)
    z = np.zeros((rows, width), np.float32)
    z[: len(y), :r] = coordinates
    del coordinates  # they may be the last reference, and many
    order = np.argsort(penalties)[::-1]
    strengths = np.asarray(penalties, np.float32)[order]
    importance = element_weights(y, class_weights, exclusive, present)
    start = log_odds(kind, y, importance).astype(np.float32)
    numbers = start, curvature_of(eigenvalues, width), strengths, np.float32(len(y))
    with jax.enable_x64(False):  # optax's line search mixes types where float64 is the default
        added = (0, rows - len(y)), (0, 0)
        data = [jax.device_put(each) for each in (z, *(np.pad(a.astype(np.float32), added) for a in (y, importance)))]
        del z
        solution = _path(*data, *map(jax.device_put, numbers), kind, tolerance, max_iterations)
        return path_of(jax.device_get(solution), r, order)


def check_stop(tolerance: float, max_iterations: int) -> None:
    """Raise InputError unless L-BFGS can take a step and has a stopping rule."""
    check_whole(max_iterations, "max_iterations", 1)
    if not isinstance(tolerance, numbers.Real) or not 0 <= tolerance < np.inf:
        raise InputError(f"tolerance: {shown(tolerance)} must be a finite number >= 0")


def width_of(rank: int, samples: int) -> int:
    """Columns to pad the coordinates to."""
    step = 1024 if 4 * samples * rank <= _LARGE else 128
    rank = max(rank, min(samples, max((w for w in WIDTHS if w * samples <= CHEAP), default=0)))
    return next((w for w in WIDTHS if w >= rank), max(rank, min(samples, -(-rank // step) * step)))


def curvature_of(eigenvalues: Float[np.ndarray, "r"], width: int) -> Float[np.ndarray, "width"]:
    """A bound of the loss's curvature along every coordinate, 0 along padding."""
    return np.pad(eigenvalues / 4, (0, width - len(eigenvalues))).astype(np.float32)


def path_of(found: tuple[np.ndarray, ...], rank: int, order: np.ndarray) -> LogisticPath[LinearProbe]:
    """The results of `solve_path` for the penalties of `order`, in the original order."""
    weights, bias, gradient, iterations = found
    back = np.argsort(order)
    return LogisticPath(
        [LinearProbe(weights[i, :rank].astype(np.float64), bias[i].astype(np.float64)) for i in back],
        [float(gradient[i]) for i in back],
        [int(iterations[i]) for i in back],
    )


def solve_path(z, y, importance, start, bound, strengths, samples, kind, tolerance, max_iterations):
    """Weights, bias, largest gradient entry and iterations for every penalty, the strongest first.

    `samples` is their number; rows of z and importance 0 beyond it change nothing. Weights have an output in each row:
    products of few outputs with z are twice as fast so on a CPU.
    """
    solver = optax.lbfgs(memory_size=10)

    def logits(weights, bias):
        return jnp.dot(weights, z.T, precision=HIGHEST).T + bias[None]

    def solve(before, penalty):
        solution, stronger = before
        shown = _probabilities(logits(*solution), kind == "multiclass")
        variance = importance * shown * (1 - shown) / samples
        curvature = _diagonal(variance, z)
        # Exact where the loss is quadratic and its curvature diagonal: the weight is then c / (curvature + penalty).
        guess = solution[0] * (curvature + stronger) / (curvature + penalty)
        scale = jax.lax.rsqrt(curvature + penalty), jax.lax.rsqrt(jnp.maximum(variance.sum(0), LEAST_VARIANCE))
        bounds = jax.lax.rsqrt(bound + penalty)[None], jnp.ones(())  # the stopping rule's, equal for all outputs

        def objective(v):
            weights, bias = (part * each for part, each in zip(v, scale))
            loss = sample_loss(kind, logits(weights, bias), y, importance).sum() / samples
            return loss + 0.5 * penalty * (weights**2).sum()

        value_and_grad = optax.value_and_grad_from_state(objective)

        def steepest(gradient):
            # Of a very rare label the bound says little, its own curvature all: it may end at most so much earlier.
            shares = [jnp.maximum(least / each, 1 / EARLIER) for each, least in zip(scale, bounds)]
            largest = [jnp.abs(part * share).max() for part, share in zip(gradient, shares)]
            return functools.reduce(jnp.maximum, largest)

        def step(carry):
            v, state, _, count = carry
            value, gradient = value_and_grad(v, state=state)
            updates, state = solver.update(gradient, state, v, value=value, grad=gradient, value_fn=objective)
            v = optax.apply_updates(v, updates)
            return v, state, steepest(optax.tree.get(state, "grad")), count + 1

        v = guess / scale[0], solution[1] / scale[1]
        first = (v, solver.init(v), jnp.inf, 0)
        v, _, slope, count = jax.lax.while_loop(lambda c: (c[2] > tolerance) & (c[3] < max_iterations), step, first)
        weights, bias = (part * each for part, each in zip(v, scale))
        return ((weights, bias), penalty), (weights.T, bias, slope, count)

    zero = jnp.zeros((y.shape[1], z.shape[1])), start
    return jax.lax.scan(solve, (zero, strengths[0]), strengths)[1]


def _diagonal(variance: Float[Array, "n k"], z: Float[Array, "n width"]) -> Float[Array, "k width"]:
    """The loss's second derivative along every coordinate; squares of a sixteenth of the columns are held at a time."""
    count = math.gcd(z.shape[1], 16)
    size = z.shape[1] // count

    def columns(first):
        return jnp.dot(variance.T, jax.lax.dynamic_slice_in_dim(z, first, size, 1) ** 2)

    parts = jax.lax.map(columns, jnp.arange(count) * size)
    return parts.swapaxes(0, 1).reshape(-1, z.shape[1])


_path = functools.partial(jax.jit, static_argnums=(7, 8, 9))(solve_path)


def probabilities(scores: TableLike, exclusive: bool) -> Float[np.ndarray, "m k"]:
    """Sigmoid or softmax of linear scores."""
    logits = jnp.asarray(host_array(scores, "scores"), jnp.float32)
    return np.asarray(_probabilities(logits, exclusive), np.float64)


def _probabilities(logits: Float[Array, "m k"], exclusive: bool) -> Float[Array, "m k"]:
    return jax.nn.softmax(logits) if exclusive else jax.nn.sigmoid(logits)


def space_of_moments(moments: Moments, rank_tolerance: float | None = None) -> RowSpace:
    """`row_space` from the moments of the features, if there are fewer features than samples.

    The moments are float32: eigenvalues below 1e-7 of the largest are about right only if features of different sizes
    are little correlated. A logistic fit needs only the axes, so no direction is left out because of this.
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
    features: TableLike,
    targets: TableLike,
    penalties: NumbersLike,
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

    No process sees the features of another: the moments of all processes give the space, and every device multiplies
    its own rows there. The targets of all rows go to all processes. This is meant for p well below the number of
    rows, because every process computes a p × p eigendecomposition. All processes must call it together.

    Args:
        features, targets: this process's rows, possibly none.
        missing: see `fit_logistic_path`.
        mesh, axis: see `covjax.sharding.shard_rows`.

    Raises like `fit_logistic_path` and `shard_rows`.
    """
    check_stop(tolerance, max_iterations)
    mesh = Mesh(mesh.devices, mesh.axis_names)  # axes that XLA sees to, as `jax.make_mesh`'s may not be
    features, own_targets = host_array(features, "features"), host_array(targets, "targets").astype(np.float64)
    own_targets = own_targets[:, None] if own_targets.ndim == 1 else own_targets
    if features.ndim != 2 or len(own_targets) != len(features):
        raise InputError(f"targets: {len(own_targets)} rows, but features have shape {features.shape}")
    penalties = check_penalties(penalties, least=LEAST, most=1 / LEAST)
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
