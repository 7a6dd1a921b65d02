"""First-order baselines: per-feature statistics and single tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.moments import Moments
from covjax.pooling.base import FunctionPooler, register
from covjax.tokens import safe_ratio, weighted_mean


def _mean(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "features"]:
    return weighted_mean(x, w)


def _mean_of(m: Moments) -> Float[Array, "features"]:
    return m.mean


def _std(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "features"]:
    return _root(safe_ratio(jnp.sum(w[:, None] * (x - weighted_mean(x, w)[None]) ** 2, axis=0), jnp.sum(w)))


def _root(variance: Float[Array, "features"]) -> Float[Array, "features"]:
    dead = variance <= 0  # the root's derivative is infinite at 0: constant features get gradient 0
    return jnp.where(dead, 0, jnp.sqrt(jnp.where(dead, 1, variance)))


def _std_of(m: Moments) -> Float[Array, "features"]:
    return _root(jnp.diagonal(m.covariance(), axis1=-2, axis2=-1))


def _mean_std(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "2*features"]:
    return jnp.concatenate([_mean(x, w), _std(x, w)])


def _mean_std_of(m: Moments) -> Float[Array, "k"]:
    return jnp.concatenate([m.mean, _std_of(m)])


def _max(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "features"]:
    top = jnp.max(jnp.where(w[:, None] > 0, x, -jnp.inf), axis=0)
    return jnp.where(jnp.any(w > 0), top, 0)


def _first(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "features"]:
    return x[jnp.argmax(w > 0)]


def _last(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "features"]:
    return x[x.shape[0] - 1 - jnp.argmax(w[::-1] > 0)]


@register("mean")
def mean() -> FunctionPooler:
    """μ = Σ w_i x_i / n; size d."""
    return FunctionPooler("mean", _mean, from_moments=_mean_of)


@register("std")
def std() -> FunctionPooler:
    """sqrt(Σ w_i (x_i − μ)² / n) per feature; size d."""
    return FunctionPooler("std", _std, from_moments=_std_of)


@register("mean_std")
def mean_std() -> FunctionPooler:
    """Mean and deviation side by side; size 2d."""
    return FunctionPooler("mean_std", _mean_std, from_moments=_mean_std_of)


@register("max")
def maximum() -> FunctionPooler:
    """Largest value of every feature over tokens with weight > 0; size d."""
    return FunctionPooler("max", _max)


@register("first")
def first() -> FunctionPooler:
    """The first token with weight > 0 (CLS if its weight is not 0); size d."""
    return FunctionPooler("first", _first, permutation_invariant=False)


@register("last")
def last() -> FunctionPooler:
    """The last token with weight > 0; size d."""
    return FunctionPooler("last", _last, permutation_invariant=False)
