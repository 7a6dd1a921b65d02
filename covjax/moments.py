"""Weighted count, mean and centred scatter of tokens, which can be merged; and the raw second moment in one product."""

import dataclasses
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import host_array, is_concrete
from covjax.tokens import (
    HIGHEST,
    TokensLike,
    WeightsLike,
    check_sequence,
    check_tokens,
    prepare_tokens,
    safe_ratio,
    token_weights,
    weighted_mean,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Sufficient statistics of weighted tokens up to second order (a pytree).

    count: n = Σ w_i; mean: μ = Σ w_i x_i / n; scatter: S = Σ w_i (x_i − μ)(x_i − μ)ᵀ. With n = 0 (a fully masked
    sequence inside `jit`, or `Moments.zeros`) every statistic below is 0. Those of several sequences, as
    `covjax.packed_moments` gives them, have the same axes in front, and so have the statistics.
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    count: Float[Array, ""]
    mean: Float[Array, "features"]
    scatter: Float[Array, "features features"]

    @classmethod
    def zeros(cls, features: int, dtype: DTypeLike = jnp.float32) -> "Moments":
        """The neutral element of `merge`."""
        return cls(jnp.zeros((), dtype), jnp.zeros(features, dtype), jnp.zeros((features, features), dtype))

    def second_moment(self) -> Float[Array, "*k features features"]:
        """M = Σ w_i x_i x_iᵀ / n = S/n + μμᵀ."""
        return self.covariance() + self.mean[..., :, None] * self.mean[..., None, :]

    def covariance(self, ddof: float = 0) -> Float[Array, "*k features features"]:
        """Σ = S / (n − ddof). Outside `jit` n <= ddof raises InputError; inside it yields 0."""
        if ddof and is_concrete(self.count) and np.any(np.asarray(self.count) <= ddof):
            raise InputError(f"ddof must be smaller than the count, got ddof {ddof} with count {self.count}")
        return safe_ratio(self.scatter, jnp.asarray(self.count)[..., None, None] - ddof)

    def correlation(self) -> Float[Array, "*k features features"]:
        """R_ij = S_ij / sqrt(S_ii S_jj); rows and columns of constant features are 0.

        A feature counts as constant where its deviation is within the rounding of its mean.
        """
        covariance = self.covariance()
        variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
        limits = jnp.finfo(self.mean.dtype)
        alive = variance > jnp.maximum((8 * limits.eps * self.mean) ** 2, limits.tiny)
        inverse = jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, variance, 1)), 0)
        return covariance * inverse[..., :, None] * inverse[..., None, :]


def moments(x: TokensLike, weights: WeightsLike = None) -> Moments:
    """Moments of one sequence, in float32 or wider for every input type.

    Two passes (a shift by the mean, then the scatter about it with the remaining offset removed), because the
    one-pass E[xxᵀ] − μμᵀ loses all digits once the mean is large against the deviation (Chan, Golub, LeVeque 1983).

    Args:
        x: tokens of one sequence; masked tokens may hold NaN or inf.
        weights: >= 0, and 0 for masked tokens; None counts every token once. Booleans mean 0 and 1.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights. Inside `jit` a fully
            masked sequence yields `Moments.zeros`.
    """
    return prepared_moments(*prepare_tokens(x, weights))


def prepared_moments(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Moments:
    """Moments of tokens that `prepare_tokens` has checked, of weights that are numbers; `moments` checks first."""
    count = jnp.sum(w)
    # Any shift gives the same statistics, so no gradient flows through it; it only has to be near the mean, and equal
    # to tokens that are all the same.
    shift = jax.lax.stop_gradient(weighted_mean(x, w))
    deviation = x - shift[None]
    weighted = deviation * w[:, None]  # masked rows: x is 0 and w is 0, finite times zero
    offset = safe_ratio(jnp.sum(weighted, axis=0), count)
    scatter = jnp.matmul(weighted.T, deviation, precision=HIGHEST) - count * jnp.outer(offset, offset)
    return Moments(count, shift + offset, scatter)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union: S = S₁ + S₂ + (n₁n₂/n) δδᵀ, δ = μ₂ − μ₁ (Chan, Golub, LeVeque 1983). Associative.

    Raises:
        InputError: the two have different numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"merge needs equal numbers of features, got a.mean {a.mean.shape} and b.mean {b.mean.shape}")
    count = a.count + b.count
    delta = b.mean - a.mean
    share = safe_ratio(b.count, count)
    scatter = a.scatter + b.scatter + a.count * share * jnp.outer(delta, delta)
    # μ₁ + share·δ would leave a rounding of μ₁ behind where a is empty and b's mean is tiny.
    mean = jnp.where(a.count > 0, a.mean + share * delta, b.mean)
    return Moments(count, mean, scatter)


def psum_merge(m: Moments, axis_name: Hashable) -> Moments:
    """Merge over a mapped axis (`vmap`, `shard_map`): every member of the axis receives the moments of all tokens."""
    count = jax.lax.psum(m.count, axis_name)
    mean = safe_ratio(jax.lax.psum(m.count * m.mean, axis_name), count)
    mean = mean + safe_ratio(jax.lax.psum(m.count * (m.mean - mean), axis_name), count)  # see `weighted_mean`
    delta = m.mean - mean
    scatter = jax.lax.psum(m.scatter + m.count * jnp.outer(delta, delta), axis_name)
    return Moments(count, mean, scatter)


@jax.jit
def _update(state: Moments, x, w) -> Moments:
    return merge(state, prepared_moments(*prepare_tokens(x, w, check_values=False)))


def streaming_moments(chunks: Iterable[Any]) -> Moments:
    """Moments of a sequence that does not fit into memory: one chunk of tokens is on the device at a time.

    Args:
        chunks: arrays (tokens, features), or pairs (tokens, weights), with the same number of features. Chunks
            shorter than the longest so far are padded with weight 0, so a ragged tail compiles nothing new.

    Raises:
        InputError: no chunk, no token with a weight above 0, wrong shapes, negative weights.
        TypeError: tokens that are not floating point.
    """
    state, length = None, 0
    for chunk in chunks:
        x, w = chunk if isinstance(chunk, tuple) else (chunk, None)
        x = check_tokens(x, "chunks")
        if state is not None and x.shape[1:] != state.mean.shape:
            raise InputError(f"chunks must have equal features, got {state.mean.shape[0]} and {x.shape[1]}")
        w = np.ones(len(x), np.float32) if w is None else host_array(w, "weights").astype(np.float32)
        if w.shape != x.shape[:1] or not (np.isfinite(w).all() and (w >= 0).all()):
            raise InputError(f"weights must be finite, >= 0 and of shape {x.shape[:1]}, got shape {w.shape}")
        length = max(length, len(x))
        if len(x) < length:
            x = np.concatenate([np.asarray(x), np.zeros((length - len(x), x.shape[1]), x.dtype)])
            w = np.concatenate([w, np.zeros(length - len(w), np.float32)])
        if state is None:
            state = Moments.zeros(x.shape[1], jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32))
        # Waiting keeps one chunk on the device: dispatch is asynchronous and a fast reader would queue them all.
        state = jax.block_until_ready(_update(state, x, w))
    if state is None or not state.count > 0:
        raise InputError("chunks must hold at least one token with a weight above 0")
    if not jnp.isfinite(state.scatter).all():
        raise InputError("chunks must be finite, with squares that float32 can hold; NaN, inf or larger values came")
    return state


_CHUNK = 8192  # longer contractions fall out of the cache and lose half the speed
_NARROW, _NARROW_CHUNK = 64, 512  # a CPU without matrix units sums narrow products token by token: keep the sums short


def largest_size(values: Float[Array, "*k"]) -> Float[Array, ""]:
    """The largest absolute value, 1 where all are 0: over it float16, which is narrow, holds them."""
    largest = jnp.max(jnp.abs(values))
    return jnp.where(largest > 0, largest, 1)


@partial(jax.jit, static_argnames="length")
def _masked_transpose(x, w, keep, start, length):
    x, w, keep = (jax.lax.dynamic_slice_in_dim(a, start, length) for a in (x, w, keep))
    clean = jnp.where(keep[:, None], x, 0)
    return (clean * w[:, None].astype(x.dtype)).T, clean


@jax.jit
def _product(left, right):
    dtype = jnp.promote_types(right.dtype, jnp.float32)
    precision = HIGHEST if right.dtype == dtype else None
    return jnp.matmul(left, right, precision=precision, preferred_element_type=dtype)


@jax.jit
def _sum(x, weights):
    """Σ w_i x_i x_iᵀ, not divided: one product where matrix units do the work, chunks on a CPU."""
    return jax.lax.platform_dependent(x, weights, cpu=_by_chunks, default=_at_once)


def _at_once(x, weights):
    if weights is None:
        return _product(x.T, x)
    w, keep = token_weights(x, weights)
    return _product(*_masked_transpose(x, w, keep, 0, x.shape[0]))


def _by_chunks(x, weights):
    w, keep = token_weights(x, weights)
    total = jnp.zeros((), w.dtype)
    chunk = _CHUNK if x.shape[1] >= _NARROW else _NARROW_CHUNK
    for start in range(0, x.shape[0], chunk):
        left, right = _masked_transpose(x, w, keep, start, min(chunk, x.shape[0] - start))
        total = total + _product(left, right)
    return total


def second_moment(x: TokensLike, weights: WeightsLike = None) -> Float[Array, "features features"]:
    """M = Σ w_i x_i x_iᵀ / n in one product, float32 or wider accumulation.

    bfloat16 and float16 tokens are multiplied as such, which is exact for weights 0 and 1; other weights, of float16
    over the largest one, are rounded with the tokens. Against `moments(x).second_moment()` this saves the shift; it
    does not give a covariance.

    Two compiled steps on purpose: on CPU a bfloat16 product over the tokens' axis falls off the fast path unless its
    left operand was transposed by a separate computation. Call it outside `jit` and `vmap`, one sequence
    at a time, for that speed there.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights. Inside `jit` a fully
            masked sequence yields 0.
    """
    x, weights = check_sequence(x, weights)
    x = jnp.asarray(x)
    weights = None if weights is None else jnp.asarray(weights)
    if weights is not None and x.dtype == jnp.float16:  # M does not depend on the weights' scale
        weights = token_weights(x, weights)[0]
        weights = weights / largest_size(weights)
    on_cpu = is_concrete(x) and is_concrete(weights) and all(device.platform == "cpu" for device in x.devices())
    total = _by_chunks(x, weights) if on_cpu else _sum(x, weights)
    return safe_ratio(total, jnp.sum(token_weights(x, weights)[0]))
