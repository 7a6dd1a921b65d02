"""Poolers with parameters: Flax NNX modules around the same functions. `seed` sets their initial values."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.pooling.base import register
from covjax.pooling.second_order import apply_spectral, check_spectral
from covjax.projected import check_projection, masked_project, projected_moment
from covjax.tokens import (
    HIGHEST,
    MatrixLike,
    TokensLike,
    WeightsLike,
    check_sequence,
    prepare_tokens,
    safe_ratio,
    token_weights,
    weighted_mean,
)
from covjax.vectorize import vech


def attention_weights(logits: Float[Array, "tokens heads"], w: Float[Array, "tokens"]) -> Float[Array, "tokens heads"]:
    """α_i ∝ w_i exp(logit_i), summing to 1 over tokens: a token of weight 2 is a token seen twice; 0 if all masked."""
    keep = w[:, None] > 0
    top = jax.lax.stop_gradient(jnp.max(jnp.where(keep, logits, -jnp.inf), axis=0, keepdims=True))
    exponent = jnp.where(keep, logits - jnp.where(jnp.isfinite(top), top, 0), -jnp.inf)
    scaled = w[:, None] * jnp.exp(exponent)
    return safe_ratio(scaled, jnp.sum(scaled, axis=0, keepdims=True))


def check_sizes(**sizes: int) -> None:
    """Raise InputError for the first size that is not an integer >= 1, naming it."""
    for name, size in sizes.items():
        if not (isinstance(size, int) and size >= 1):
            raise InputError(f"{name} must be an integer >= 1, got {size!r}")


def check_features(x: Float[Array, "tokens features"], features: int) -> None:
    """Raise InputError for tokens with another number of features."""
    if x.shape[1] != features:
        raise InputError(f"x must have {features} features, got {x.shape[1]}")


def projection(rngs: nnx.Rngs, features: int, rank: int) -> nnx.Param[Array]:
    """A random (features, rank) parameter whose columns have about unit norm."""
    return nnx.Param(jax.random.normal(rngs.params(), (features, rank)) / features**0.5)


class AttentionPool(nnx.Module):
    """Head h pools its slice of the values xV with α_h = softmax(x q_h + position bias), for every query; queries·d."""

    name = "attention"

    def __init__(self, features: int, heads: int, position_bias: bool, queries: int, rngs: nnx.Rngs):
        self.heads = heads
        self.permutation_invariant = not position_bias
        self.queries = projection(rngs, features, queries * heads)
        self.values = projection(rngs, features, features)
        self.position = nnx.Param(jnp.zeros((2, queries * heads))) if position_bias else None

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        x, w = prepare_tokens(x, weights)
        check_features(x, self.queries.shape[0])
        logits = jnp.matmul(x, self.queries[...], precision=HIGHEST)
        if self.position is not None:
            rank = jnp.cumsum(w > 0) - 1  # counts kept tokens only: padding moves nobody
            ends = jnp.stack([rank, jnp.sum(w > 0) - 1 - rank], axis=1).clip(0).astype(x.dtype)
            logits = logits + jnp.matmul(jnp.log1p(ends), self.position[...], precision=HIGHEST)
        alpha = attention_weights(logits, w)
        # Σ α (xV) = (Σ α x) V: the values of one mean for each head, in place of those of every token.
        means = jnp.matmul(alpha.T, x, precision=HIGHEST).reshape(-1, self.heads, x.shape[1])
        values = self.values[...].reshape(x.shape[1], self.heads, -1)
        return jnp.einsum("qhd,dhk->qhk", means, values, precision=HIGHEST).reshape(-1)


class LightAttentionPool(nnx.Module):
    """[Σ_i α_i ∘ v_i, max_i v_i] with values and per-feature attention from convolutions (Stärk et al. 2021); 2d."""

    name = "light_attention"
    permutation_invariant = False

    def __init__(self, features: int, kernel_size: int, rngs: nnx.Rngs):
        self.values = nnx.Conv(features, features, kernel_size, precision=HIGHEST, rngs=rngs)
        self.logits = nnx.Conv(features, features, kernel_size, precision=HIGHEST, rngs=rngs)

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`); masked tokens enter the convolutions as zeros."""
        x, w = prepare_tokens(x, weights)
        check_features(x, self.values.in_features)
        values = self.values(x)
        pooled = jnp.sum(attention_weights(self.logits(x), w) * values, axis=0)
        top = jnp.max(jnp.where(w[:, None] > 0, values, -jnp.inf), axis=0)
        return jnp.concatenate([pooled, jnp.where(jnp.any(w > 0), top, 0)])


class ProjectedPool(nnx.Module):
    """C = (XA)ᵀ(XB)/n with learned A, B: flattened, rank², or tied (A = B): vech of f(C), rank(rank + 1)/2."""

    name = "projected"
    permutation_invariant = True

    def __init__(
        self,
        features: int,
        rank: int,
        tied: bool,
        center: str | None,
        spectral: str | None,
        floor: float,
        rngs: nnx.Rngs,
    ):
        self.left = projection(rngs, features, rank)
        self.right = None if tied else projection(rngs, features, rank)
        self.center = center
        self.spectral = spectral
        self.floor = floor

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        right = None if self.right is None else self.right[...]
        c = projected_moment(x, self.left[...], right, weights, center=self.center)
        return vech(apply_spectral(c, self.spectral, self.floor)) if right is None else c.reshape(-1)


class AttentionCovariance(nnx.Module):
    """Σ_i α_i (y_i − ȳ)(y_i − ȳ)ᵀ, y = Aᵀx, ȳ = Σ α_i y_i, α_h = softmax(x q_h): vech for every head."""

    name = "attention_covariance"
    permutation_invariant = True

    def __init__(self, features: int, rank: int, heads: int, rngs: nnx.Rngs):
        self.queries = projection(rngs, features, heads)
        self.basis = projection(rngs, features, rank)

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        c = attention_covariance_matrices(x, self.queries[...], self.basis[...], weights)
        return jax.vmap(vech)(c).reshape(-1)


def attention_covariance_matrices(
    x: TokensLike,
    queries: MatrixLike,
    basis: MatrixLike,
    weights: WeightsLike = None,
) -> Float[Array, "heads rank rank"]:
    """The matrices of `AttentionCovariance`."""
    x, weights = check_sequence(x, weights)
    check_projection(queries, x.shape[1], "queries")
    check_projection(basis, x.shape[1], "basis")
    w, keep = token_weights(x, weights)
    x, heads = jnp.asarray(x), queries.shape[1]
    if x.dtype == jnp.bfloat16:  # on CPU a bfloat16 product with few columns is slow, a joint one is not
        joint = masked_project(x, jnp.concatenate([queries, basis], axis=1), keep)
        logits, y = joint[:, :heads], joint[:, heads:]
    else:  # and in float32 a few odd columns slow the joint product down
        logits, y = masked_project(x, queries, keep), masked_project(x, basis, keep)
    alpha = attention_weights(logits, w)

    def one(a):
        deviation = jnp.where(keep[:, None], y - weighted_mean(y, a)[None], 0)
        return jnp.matmul((deviation * a[:, None]).T, deviation, precision=HIGHEST)

    return jax.vmap(one, in_axes=1)(alpha)


@register("attention")
def attention(
    *, features: int, heads: int = 4, position_bias: bool = False, queries: int = 1, seed: int = 0
) -> AttentionPool:
    """Multi-head attention with `queries` trained queries; size queries·d.

    `position_bias` adds a learned slope on the log distance from both ends.
    """
    check_sizes(features=features, heads=heads, queries=queries)
    if features % heads:
        raise InputError(f"heads must divide features {features}, got {heads}")
    return AttentionPool(features, heads, position_bias, queries, nnx.Rngs(seed))


@register("light_attention")
def light_attention(*, features: int, kernel_size: int = 9, seed: int = 0) -> LightAttentionPool:
    """Light attention, softmax-weighted mean and maximum of two convolutions (Stärk et al. 2021); size 2d."""
    check_sizes(features=features, kernel_size=kernel_size)
    return LightAttentionPool(features, kernel_size, nnx.Rngs(seed))


@register("projected")
def projected(
    *,
    features: int,
    rank: int = 32,
    tied: bool = True,
    center: str | None = "sequence",
    spectral: str | None = None,
    ridge: float = 1e-6,
    eps: float = 0.1,
    seed: int = 0,
) -> ProjectedPool:
    """C = (XA)ᵀ(XB)/n with trained A and B; tied (A = B): vech of f(C), rank(rank + 1)/2 numbers; untied: C, rank²."""
    check_sizes(features=features, rank=rank)
    floor = check_spectral(spectral, ridge, eps)
    if spectral is not None and not tied:
        raise InputError("spectral needs tied=True: C = AᵀSB is not symmetric")
    if center not in (None, "sequence"):
        raise InputError(f"center must be None or 'sequence', got {center!r}")
    return ProjectedPool(features, rank, tied, center, spectral, floor, nnx.Rngs(seed))


@register("attention_covariance")
def attention_covariance(*, features: int, rank: int = 32, heads: int = 1, seed: int = 0) -> AttentionCovariance:
    """Covariance of trained projections of the tokens, weighted by attention; size heads · rank(rank + 1)/2."""
    check_sizes(features=features, rank=rank, heads=heads)
    return AttentionCovariance(features, rank, heads, nnx.Rngs(seed))
