"""Poolers of the distribution of the tokens, feature by feature, slice by slice, or against fitted centres."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import host_array
from covjax.moments import Moments
from covjax.pooling.base import FunctionPooler, register
from covjax.pooling.fitted import FittedPooler
from covjax.pooling.learned import check_features, check_sizes, projection
from covjax.tokens import (
    HIGHEST,
    MatrixLike,
    TokensLike,
    WeightsLike,
    power_of_four,
    prepare_tokens,
    safe_ratio,
    weighted_mean,
)

Tokens = Float[Array, "tokens features"]
Weights = Float[Array, "tokens"]
VectorOf = Annotated[Any, Float[Array, "k"]]  # checked below


def signed_root(value: Float[Array, "*k"], power: float = 2) -> Float[Array, "*k"]:
    """sign(v) |v|^(1/power); where v is 0 the derivative, which is infinite, is taken as 0."""
    nothing = value == 0
    return jnp.where(nothing, 0, jnp.sign(value) * jnp.abs(jnp.where(nothing, 1, value)) ** (1 / power))


def unit(vector: Float[Array, "k"]) -> Float[Array, "k"]:
    """The vector divided by its ℓ2 norm, 0 where that is 0."""
    square = jnp.sum(vector**2)
    return jnp.where(square > 0, vector * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


def _average(values: Float[Array, "tokens k"], w: Weights) -> Float[Array, "k"]:
    return safe_ratio(jnp.matmul(w, values, precision=HIGHEST), jnp.sum(w))


def _power_means(x: Tokens, w: Weights, powers):
    size = power_of_four(x)
    scale = jnp.where((size > 1e6) | (size < 1e-6), size, 1)  # there powers overflow or vanish

    def one(power):
        if math.isinf(power):
            sign = math.copysign(1, power)
            top = jnp.max(jnp.where(w[:, None] > 0, sign * x, -jnp.inf), axis=0)
            return jnp.where(jnp.any(w > 0), sign * top, 0)
        return weighted_mean(x, w) if power == 1 else scale * signed_root(_average((x / scale) ** int(power), w), power)

    return jnp.concatenate([one(power) for power in powers])


@register("power_means")
def power_means(*, powers: Sequence[float] = (1, 2, 3, math.inf, -math.inf)) -> FunctionPooler:
    """(Σ w_i x_i^p / n)^(1/p) of every feature, sign kept, for every p; ±∞ are maximum and minimum; size len(powers)·d.

    Rücklé et al. 2018.
    """
    if isinstance(powers, int | float) or not powers:
        raise InputError(f"powers must be a non-empty list, got {powers!r}")
    if bad := [p for p in powers if not (math.isinf(p) or (p >= 1 and p == int(p)))]:
        raise InputError(f"powers must be whole numbers >= 1, or inf and -inf, got {bad[0]!r}")
    return FunctionPooler("power_means", _power_means, options=(("powers", tuple(powers)),))


def _standardised_moments(x: Tokens, w: Weights, orders):
    mean = weighted_mean(x, w)
    deviation = jnp.where(w[:, None] > 0, x - mean[None], 0)
    variance = _average(deviation**2, w)
    limits = jnp.finfo(x.dtype)
    alive = variance > jnp.maximum((8 * limits.eps * mean) ** 2, limits.tiny)  # as `Moments.correlation`
    z = deviation * jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, variance, 1)), 0)[None]
    return jnp.concatenate([_average(z**order, w) for order in orders])


@register("standardised_moments")
def standardised_moments(*, orders: Sequence[int] = (3, 4)) -> FunctionPooler:
    """Σ w_i z_i^k / n, z = (x − μ)/σ, for every order k: skewness, kurtosis; size len(orders)·d.

    0 for constant features. Rouvier et al. 2021 put them beside mean and deviation.
    """
    if isinstance(orders, int) or not orders or any(not (isinstance(k, int) and k >= 3) for k in orders):
        raise InputError(f"orders must be a non-empty list of whole numbers >= 3, got {orders!r}")
    return FunctionPooler("standardised_moments", _standardised_moments, options=(("orders", tuple(orders)),))


def quantile_means(values: Weights, w: Weights, points: int) -> Float[Array, "{points}"]:
    """Means of the quantile function over `points` equal parts of (0, 1); masked values may be anything finite."""
    order = jnp.argsort(jnp.where(w > 0, values, jnp.inf))
    values, w = values[order], w[order]
    ends, length = jnp.cumsum(w), jnp.sum(w)
    edges = jnp.arange(1, points, dtype=w.dtype) * length / points
    place = jnp.searchsorted(ends, edges, side="right").clip(0, len(ends) - 1)
    sums = jnp.cumsum(w * values)
    below = sums[place] - (ends[place] - edges) * values[place]  # the integral of the quantile function up to an edge
    total = jnp.diff(jnp.concatenate([jnp.zeros(1, sums.dtype), below, sums[-1:]]))
    return safe_ratio(total * points, length)


def _sliced(x: Tokens, w: Weights, directions: Float[Array, "features slices"], points: int):
    slices = jnp.matmul(x, directions / jnp.linalg.norm(directions, axis=0, keepdims=True), precision=HIGHEST)
    mean = weighted_mean(slices, w)
    deviation = jnp.where(w[:, None] > 0, slices - mean[None], 0)  # sums of large numbers would lose digits
    return (mean[:, None] + jax.vmap(lambda y: quantile_means(y, w, points), in_axes=1)(deviation)).reshape(-1)


def _random_slices(x: Tokens, w: Weights, slices, points, seed):
    return _sliced(x, w, jax.random.normal(jax.random.key(seed), (x.shape[1], slices), jnp.float32), points)


class SlicedWasserstein(nnx.Module):
    """Quantiles of the tokens along learned directions."""

    name = "sliced_wasserstein"
    permutation_invariant = True

    def __init__(self, features: int, slices: int, points: int, rngs: nnx.Rngs):
        self.directions, self.points = projection(rngs, features, slices), points

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        x, w = prepare_tokens(x, weights)
        check_features(x, self.directions.shape[0])
        return _sliced(x, w, self.directions[...], self.points)


@register("sliced_wasserstein")
def sliced_wasserstein(
    *, slices: int = 64, points: int = 8, features: int | None = None, seed: int = 0
) -> FunctionPooler | SlicedWasserstein:
    """Means of the quantile function over `points` equal parts, along `slices` directions; size slices·points.

    ℓ1 distances of two vectors, over their size, are sliced Wasserstein distances where `points` resolves both
    (NaderiAlizadeh and Singh 2025; a reference distribution would only shift the vectors). Directions are random, or
    with `features` parameters to train. Memory is a few arrays of tokens × slices.
    """
    check_sizes(slices=slices, points=points)
    if features is not None:
        check_sizes(features=features)
        return SlicedWasserstein(features, slices, points, nnx.Rngs(seed))
    options = (("slices", slices), ("points", points), ("seed", seed))
    return FunctionPooler("sliced_wasserstein", _random_slices, options=options)


def _kernel_mean(x: Tokens, w: Weights, bandwidth, frequencies, seed):
    directions = jax.random.normal(jax.random.key(seed), (x.shape[1], frequencies), jnp.float32)
    directions = directions / bandwidth.astype(jnp.float32)
    phase = jnp.matmul(x, directions, precision=HIGHEST)
    return _average(jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=1), w) / frequencies**0.5


@register("kernel_mean")
def kernel_mean(*, bandwidth: Any, frequencies: int = 512, seed: int = 0) -> FittedPooler:
    """Mean of random Fourier features of the Gaussian kernel exp(−|x − y|²/2 bandwidth²); size 2·frequencies.

    Rahimi and Recht 2007; the inner product of two vectors estimates that of the tokens' kernel mean embeddings.
    """
    check_sizes(frequencies=frequencies)
    value = host_array(bandwidth, "bandwidth")
    if value.size != 1 or not (np.isfinite(value).all() and (value > 0).all()):
        raise InputError(f"bandwidth must be one number > 0, got {bandwidth!r}")
    arrays = {"bandwidth": value.reshape(())}
    return FittedPooler("kernel_mean", _kernel_mean, arrays, frequencies=frequencies, seed=seed)


def _matrix(given: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = host_array(given, name).astype(np.float32)
    if array.ndim != 2 or 0 in array.shape or (shape is not None and array.shape != shape):
        raise InputError(f"{name} must have shape {shape or '(centres, features)'}, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite")
    return array


def _vlad(x: Tokens, w: Weights, centres: Float[Array, "centres features"]):
    # The common term |x|² decides nothing and would eat the digits of the rest.
    distance = jnp.sum(centres**2, axis=1)[None] - 2 * jnp.matmul(x, centres.T, precision=HIGHEST)
    member = jax.nn.one_hot(jnp.argmin(distance, axis=1), len(centres), dtype=w.dtype) * w[:, None]
    count = jnp.sum(member, axis=0)
    sums = jnp.matmul(member.T, x, precision=HIGHEST) - count[:, None] * centres
    return unit(signed_root(safe_ratio(sums, jnp.sum(w))).reshape(-1))


@register("vlad")
def vlad(*, centres: MatrixLike) -> FittedPooler:
    """Σ w_i (x_i − c)/n over the tokens nearest to each centre c, signed root, unit length; size centres·d.

    Jégou et al. 2012.
    """
    array = _matrix(centres, "centres")
    return FittedPooler("vlad", _vlad, {"centres": array}, array.shape[1])


def responsibilities(x: Tokens, shares: Array, means: Array, variances: Array) -> Float[Array, "tokens components"]:
    """Probability of every component of a Gaussian mixture with diagonal covariances, given each token."""

    def log(component):  # one after the other: side by side each would hold the tokens
        share, mean, variance = component
        square = jnp.sum((x - mean[None]) ** 2 / variance[None], axis=1)  # written out it would lose digits
        return jnp.log(share) - 0.5 * (square + jnp.sum(jnp.log(variance)))

    return jax.nn.softmax(jax.lax.map(log, (shares, means, variances)).T, axis=1)


def _fisher_vector(x: Tokens, w: Weights, shares, means, variances):
    weighted = responsibilities(x, shares, means, variances) * w[:, None]

    def one(member, share, mean, variance):
        z = (x - mean[None]) * jax.lax.rsqrt(variance)[None]
        first = jnp.matmul(member, z, precision=HIGHEST) / jnp.sqrt(share)
        return first, jnp.matmul(member, z**2 - 1, precision=HIGHEST) / jnp.sqrt(2 * share)

    first, second = jax.lax.map(lambda each: one(*each), (weighted.T, shares, means, variances))
    gradient = safe_ratio(jnp.concatenate([first, second], axis=0), jnp.sum(w))
    return unit(signed_root(gradient).reshape(-1))


@register("fisher_vector")
def fisher_vector(*, shares: VectorOf, means: MatrixLike, variances: MatrixLike) -> FittedPooler:
    """Gradient of the log-likelihood for means and deviations of a diagonal Gaussian mixture; size 2·components·d.

    Whitened by its Fisher information, then signed root and unit length (Sánchez et al. 2013).
    """
    centre, weight = _matrix(means, "means"), host_array(shares, "shares").astype(np.float32)
    variance = _matrix(variances, "variances", centre.shape)
    if weight.shape != centre.shape[:1] or not (weight > 0).all():
        raise InputError(f"shares must be {len(centre)} numbers > 0, one a component, got {shares!r}")
    if not (variance > 0).all():
        raise InputError(f"variances must be > 0, got {variance.min():g}")
    arrays = {"shares": weight, "means": centre, "variances": variance}
    return FittedPooler("fisher_vector", _fisher_vector, arrays, centre.shape[1])


def _whitened_mean(x: Tokens, w: Weights, center, whitening):
    return jnp.matmul(weighted_mean(x, w) - center, whitening, precision=HIGHEST)


def _whitened_mean_of(m: Moments, center, whitening):
    return jnp.matmul(m.mean - center, whitening, precision=HIGHEST)


@register("whitened_mean")
def whitened_mean(*, center: VectorOf, whitening: MatrixLike) -> FittedPooler:
    """(μ − center)ᵀW for a fitted centre and whitening W (features, rank); size rank."""
    matrix, middle = _matrix(whitening, "whitening"), host_array(center, "center").astype(np.float32)
    if middle.shape != matrix.shape[:1]:
        raise InputError(f"center must have shape {matrix.shape[:1]}, one number a feature, got {middle.shape}")
    arrays = {"center": middle, "whitening": matrix}
    return FittedPooler("whitened_mean", _whitened_mean, arrays, len(middle), from_moments=_whitened_mean_of)
