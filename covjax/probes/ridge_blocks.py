"""Ridge if the n × p matrix of features is too large for memory: features are made block by block.

There are three routes to the same optimum. "primal": the p × p covariance, for 2p <= n. "eigen": the n × n kernel and
its eigendecomposition (`KernelSpace`), n <= 4,096. "cholesky": the kernel in float32 and one Cholesky factorisation for
each penalty below 1, a thirtieth of the work of an eigendecomposition; conjugate gradients make these exact and solve
the other penalties alone.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import linalg  # JAX itself stands on it

from covjax.errors import InputError
from covjax.inputs import NumbersLike, TableLike, check_numbers, check_penalties, exact_mean, patterns
from covjax.probes.coordinates import LinearProbe, kernel_space
from covjax.probes.ridge import check_present, ridge_path, solve_ridge
from covjax.tokens import HIGHEST

FeatureBlock = Callable[[int, int], Float[Array, "b p"]]
Operator = Callable[[np.ndarray], np.ndarray]
ROUTES = ("primal", "eigen", "cholesky")
_LARGEST_EIGEN = 4096
_RESIDUAL = 1e-8  # of the targets' norm, at which conjugate gradients stop
_STEPS = 20  # of them at most
_ROWS = 1024  # of a float32 kernel widened at a time


def choose_route(n: int, p: int) -> str:
    """The cheapest of ROUTES for n samples of p features."""
    if 2 * p <= n:
        return "primal"
    return "eigen" if n <= _LARGEST_EIGEN else "cholesky"


def fit_ridge_blocks(
    features: FeatureBlock,
    targets: TableLike,
    penalties: NumbersLike,
    route: str = "auto",
    block_size: int | None = None,
    panel_gib: float = 3.0,
    missing: str = "refuse",
) -> list[LinearProbe]:
    """`fit_ridge_path` on features that are made block by block, one probe on raw features per penalty.

    `features(start, stop)` returns the float32 features of those samples; every call with the same arguments must
    return the same. `block_size` samples are computed at a time, by default as many as take 256 MiB, at most 512. Peak
    memory is about 8n² bytes (eigen: 24n²), `panel_gib`, three blocks, and the weights, 8 · p · k · penalties bytes.
    `missing` is as in `fit_ridge_path`; outputs with the same missing rows are solved together. Each such group needs
    its own solution, and in the primal route also its own pass over the features.

    Raises:
        InputError: targets that are not finite, penalties not positive, an unknown route, features that are not finite,
            of another shape, or that do not vary.
    """
    y, present = check_numbers(targets, missing=missing)
    penalties = check_penalties(penalties)
    if present is None:
        present = np.ones(y.shape, bool)
    check_present(present)
    n, p = len(y), features(0, 1).shape[1]
    block_size = block_size or default_block(p)
    route = choose_route(n, p) if route == "auto" else route
    if route not in ROUTES:
        raise InputError(f"route: {route!r} is not one of auto, {', '.join(ROUTES)}")
    if route == "primal":
        return _primal(features, y, present, penalties, block_size)
    kernel = block_gram(features, n, block_size, panel_gib)
    square = mean_square(kernel)
    alphas, means = np.zeros((len(penalties), *y.shape)), np.zeros((len(penalties), y.shape[1]))
    for rows, columns in patterns(present):
        own, target = (kernel, y[:, columns]) if rows.all() else (kernel[np.ix_(rows, rows)], y[rows][:, columns])
        strengths = penalties if rows.all() else [each * square / mean_square(own) for each in penalties]
        for i, alpha in enumerate(_dual(own, target, strengths, route)):
            alphas[i][np.ix_(rows, columns)] = alpha
            means[i, columns] = target.mean(0)
            if not rows.all():  # the probe's mean over all samples, where its mean over its own is that of the targets
                scores = kernel[:, rows].astype(np.float64) @ alpha
                means[i, columns] += scores.mean(0) - scores[rows].mean(0)
    return primal_weights(features, list(alphas), means, block_size)


def _dual(kernel: np.ndarray, y: np.ndarray, penalties: Sequence[float], route: str) -> list[np.ndarray]:
    if route == "cholesky":
        return cholesky_path(kernel, y, penalties)
    space = kernel_space(kernel)
    path = ridge_path(space.eigenvalues, space.coordinates(kernel), y, penalties)
    return [space.probe(fitted).alpha for fitted in path]


def mean_square(kernel: Float[np.ndarray, "n n"]) -> float:
    """Mean squared norm of the centred samples; InputError if they vary no more than the kernel's rounding."""
    square = float(np.trace(kernel, dtype=np.float64) / len(kernel) - kernel.mean(dtype=np.float64))
    if not square > np.finfo(np.float32).eps * float(np.abs(np.diagonal(kernel)).max()):
        raise InputError(f"kernel: all {len(kernel)} training samples are equal; nothing to fit")
    return square


def default_block(p: int) -> int:
    """Samples of p float32 features in 256 MiB, 1 to 512."""
    return max(1, min(512, 2**28 // (4 * p)))


def block_gram(features: FeatureBlock, n: int, block_size: int, panel_gib: float = 3.0) -> Float[np.ndarray, "n n"]:
    """The kernel F Fᵀ of shifted features in float32, on the host; only its upper half is computed.

    All features are shifted by the mean of the first block: centring removes any shift, and a kernel near its centre
    keeps digits. As many blocks as fit into `panel_gib` stay in memory while the later ones are made once, so every
    block is made about n·p·4 bytes / (2 · panel) times.

    Raises InputError for features of another shape, NaN and inf.
    """
    starts = range(0, n, block_size)
    first = _block(features, 0, min(block_size, n))
    shift, p = first.mean(0), first.shape[1]
    panel = max(1, int(panel_gib * 2**30 / (4 * p * block_size)))
    kernel = np.empty((n, n), np.float32)

    def fill(i: int, left: Array, j: int, right: Array) -> None:
        values = np.asarray(_inner(left, right))
        kernel[i : i + len(left), j : j + len(right)] = values
        kernel[j : j + len(right), i : i + len(left)] = values.T

    for begin in range(0, len(starts), panel):
        held = [
            (i, _block(features, i, min(i + block_size, n), p) - shift[None]) for i in starts[begin : begin + panel]
        ]
        for a, (i, left) in enumerate(held):
            for j, right in held[a:]:
                fill(i, left, j, right)
        for j in starts[begin + panel :]:
            right = _block(features, j, min(j + block_size, n), p) - shift[None]
            for i, left in held:
                fill(i, left, j, right)
    return kernel


def cholesky_path(
    kernel: Float[np.ndarray, "n n"], targets: Float[np.ndarray, "n k"], penalties: Sequence[float]
) -> list[Float[np.ndarray, "n k"]]:
    """α of (HKH + nλs² I) α = HY for every λ, H the centring and s² the mean squared norm: its columns sum to 0.

    Conjugate gradients (Hestenes and Stiefel 1952) in float64 on the exactly centred kernel, until the residual is 1e-8
    of the targets; for λ < 1 a float32 Cholesky factor is the preconditioner, or one in float64 if that fails. From
    λ = 1 on no preconditioner is needed, because the condition is at most 1 + 1/λ: HKH has no eigenvalue above its
    trace, n s².

    Raises:
        InputError: a kernel of samples that do not vary; penalties so small that float64 fails too.
    """
    mean = kernel.mean(0, dtype=np.float64)
    square = mean_square(kernel)
    y = np.asarray(targets, np.float64) - np.mean(targets, axis=0, dtype=np.float64)
    return [_solve(kernel, mean, y, penalty, square) for penalty in penalties]


def factored_path(
    kernel: Float[np.ndarray, "n n"], targets: Float[np.ndarray, "n k"], penalties: Sequence[float]
) -> list[Float[np.ndarray, "n k"]] | None:
    """The α of `cholesky_path` by a float64 Cholesky factor for every λ; None where rounding makes one indefinite.

    P penalties take P · n² · (n + 6k) / 3 products, where one eigendecomposition takes about 7 n³: with few outputs and
    a short path it is faster. Raises InputError for a kernel of samples that do not vary.
    """
    mean = kernel.mean(0, dtype=np.float64)
    square = mean_square(kernel)
    y = np.asarray(targets, np.float64) - np.mean(targets, axis=0, dtype=np.float64)
    alphas = []
    for penalty in penalties:
        factor = _factor(kernel, mean, len(y) * penalty * square, np.float64)
        if factor is None:
            return None
        alphas.append(linalg.cho_solve(factor, y, check_finite=False))
    return alphas


def primal_weights(
    features: FeatureBlock,
    alphas: Sequence[Float[np.ndarray, "n k"]],
    mean: Float[np.ndarray, "k"] | Float[np.ndarray, "penalties k"],
    block_size: int,
) -> list[LinearProbe]:
    """W = Fᵀα and the bias that gives the training samples the mean score `mean`, in one more pass over the features.

    The columns of α sum to 0, so F may be shifted by the mean of its first block, which keeps digits.
    """
    stacked = np.concatenate(alphas, axis=1).astype(np.float32)
    n = len(stacked)
    shift = _block(features, 0, min(block_size, n)).mean(0)
    weights, centre = np.zeros(()), np.zeros(())
    for i in range(0, n, block_size):
        block = _block(features, i, min(i + block_size, n))
        weights = weights + np.asarray(_project(block, stacked[i : i + block_size], shift), np.float64)
        centre = centre + np.asarray(block, np.float64).sum(0) / n
    means = np.broadcast_to(mean, (len(alphas), np.shape(mean)[-1]))
    return [LinearProbe(w, m - centre @ w) for w, m in zip(np.split(weights, len(alphas), axis=1), means)]


def _primal(
    features: FeatureBlock, y: np.ndarray, present: np.ndarray, penalties: Sequence[float], block_size: int
) -> list[LinearProbe]:
    shift = exact_mean(np.asarray(_block(features, 0, min(block_size, len(y))), np.float64))
    whole = np.ones(len(y), bool)
    square = 1.0 if present.all() else float(np.trace(_sums(features, y, whole, shift, block_size)[0]))
    weights = np.empty((len(penalties), len(shift), y.shape[1]))
    bias = np.empty((len(penalties), y.shape[1]))
    for rows, columns in patterns(present):
        covariance, cross, mean = _sums(features, y[:, columns], rows, shift, block_size)
        strengths = penalties if rows.all() else [each * square / np.trace(covariance) for each in penalties]
        target = y[rows][:, columns].mean(0)
        path = solve_ridge(covariance, cross, mean, target, int(rows.sum()), strengths)
        for i, probe in enumerate(path):
            weights[i][:, columns], bias[i, columns] = probe.weights, probe.bias
    return [LinearProbe(*each) for each in zip(weights, bias)]


def _sums(features: FeatureBlock, y: np.ndarray, rows: np.ndarray, shift: np.ndarray, block_size: int):
    """Covariance of the features, their covariance with the targets, and their mean, over some samples."""
    n, target = rows.sum(), y[rows].mean(0)
    total, scatter, cross = np.zeros(()), np.zeros(()), np.zeros(())
    for i in range(0, len(y), block_size):
        here = rows[i : i + block_size]
        x = np.asarray(_block(features, i, min(i + block_size, len(y)), len(shift)), np.float64)[here] - shift
        total, scatter = total + x.sum(0) / n, scatter + x.T @ x / n
        cross = cross + x.T @ (y[i : i + block_size][here] - target) / n
    return scatter - np.outer(total, total), cross, total + shift


def _block(features: FeatureBlock, start: int, stop: int, p: int | None = None) -> Float[Array, "b p"]:
    block = jnp.asarray(features(start, stop), jnp.float32)
    if block.ndim != 2 or block.shape != (stop - start, p or block.shape[1]):
        raise InputError(f"features({start}, {stop}): shape {block.shape}, expected ({stop - start}, {p or 'p'})")
    if not jnp.isfinite(block).all():
        bad = int(jnp.argmin(jnp.isfinite(block).all(1)))
        raise InputError(f"features({start}, {stop}): NaN or inf, first in sample {start + bad}")
    return block


@jax.jit
def _inner(left, right):
    return jnp.matmul(left, right.T, precision=HIGHEST)


@jax.jit
def _project(block, alpha, shift):
    return jnp.matmul((block - shift[None]).T, alpha, precision=HIGHEST)


def _solve(kernel: np.ndarray, mean: np.ndarray, y: np.ndarray, penalty: float, square: float) -> np.ndarray:
    ridge = len(y) * penalty * square

    def apply(alpha):
        image = np.concatenate([kernel[i : i + _ROWS].astype(np.float64) @ alpha for i in range(0, len(y), _ROWS)])
        return image - image.mean(0) + ridge * alpha

    for precondition in _preconditioners(kernel, mean, penalty, ridge):
        alpha = _conjugate_gradients(apply, precondition, y)
        if np.linalg.norm(y - apply(alpha)) <= _RESIDUAL * np.linalg.norm(y):
            return alpha
    raise InputError(f"penalties: the kernel plus {ridge:g} cannot be solved in float64; take larger penalties")


def _preconditioners(kernel: np.ndarray, mean: np.ndarray, penalty: float, ridge: float) -> Iterator[Operator]:
    if penalty >= 1:
        yield lambda residual: residual
        return
    for dtype in (np.float32, np.float64):
        factor = _factor(kernel, mean, ridge, dtype)
        if factor is not None:
            yield partial(_solve_triangles, factor)


def _solve_triangles(factor: tuple[np.ndarray, bool], residual: np.ndarray) -> np.ndarray:
    return linalg.cho_solve(factor, residual.astype(factor[0].dtype), check_finite=False)


def _conjugate_gradients(apply: Operator, precondition: Operator, y: np.ndarray) -> np.ndarray:
    """A⁻¹ y, every column on its own, among columns that sum to 0; as near as _STEPS steps come."""
    alpha, residual, direction, before = np.zeros_like(y), y, np.zeros_like(y), np.ones(y.shape[1])
    for _ in range(_STEPS):
        z = precondition(residual).astype(np.float64)
        z -= z.mean(0)
        product = (residual * z).sum(0)
        direction = z + _ratio(product, before) * direction
        image = apply(direction)
        step = _ratio(product, (direction * image).sum(0))
        alpha, residual, before = alpha + step * direction, residual - step * image, product
        if np.linalg.norm(residual) <= _RESIDUAL / 2 * np.linalg.norm(y):
            break
    return alpha


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)  # 0 for a column that is solved


def _factor(kernel: np.ndarray, mean: np.ndarray, ridge: float, dtype) -> tuple[np.ndarray, bool] | None:
    """Cholesky factor of the centred kernel plus `ridge`; None where rounding made that indefinite."""
    shifted = np.empty(kernel.shape, dtype)
    for i in range(0, len(kernel), _ROWS):
        shifted[i : i + _ROWS] = kernel[i : i + _ROWS] - mean - mean[i : i + _ROWS, None] + mean.mean()
    shifted.flat[:: len(kernel) + 1] += ridge
    try:  # transposed: LAPACK works by columns, and then in place
        return linalg.cho_factor(shifted.T, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return None
