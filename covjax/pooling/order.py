"""Poolers that know where a token is: regions, lagged covariance and the cosine transform of the token series.

A sequence is a line of length n = Σ w_i on which token i covers an interval of length w_i. Regions are intervals, lags
are shifts of that line, and the transform is an integral over it, so a token of weight 2 is two equal neighbours, and
masked tokens take no room.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.pooling.base import FunctionPooler, Pooler, get_pooler, register
from covjax.pooling.learned import check_sizes
from covjax.tokens import HIGHEST, TokensLike, WeightsLike, prepare_tokens, safe_ratio, weighted_mean


def region_weights(w: Float[Array, "tokens"], bins: int) -> Float[Array, "bins tokens"]:
    """How much of every token's interval lies in each of `bins` equal parts of the line; columns sum to w."""
    ends = jnp.cumsum(w)
    edges = jnp.arange(bins + 1, dtype=w.dtype) * ends[-1] / bins
    low = jnp.maximum((ends - w)[None], edges[:-1, None])
    share = jnp.minimum(ends[None], edges[1:, None]) - low
    return jnp.where(share > 1e-4 * w[None], share, 0)  # less is the rounding of the ends


class Regional(nnx.Module):
    """A pool of every region, one after the other."""

    name = "regional"
    permutation_invariant = False

    def __init__(self, pool: Pooler, bins: int):
        self.pool, self.bins = pool, bins

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        x, w = prepare_tokens(x, weights)
        # One region after the other: side by side each would hold the tokens.
        return jax.lax.map(lambda part: self.pool(x, part), region_weights(w, self.bins)).reshape(-1)


@register("regional")
def regional(
    *, pool: str | Pooler = "mean", bins: int = 4, options: Mapping[str, Any] | Sequence[tuple[str, Any]] = ()
) -> Regional:
    """`pool` (a name with `options`, or a pooler) on each of `bins` equal parts; size `bins` times the pool's.

    A token on a boundary, and every token of a sequence of fewer tokens than bins, belongs in part to several.
    """
    check_sizes(bins=bins)
    if not isinstance(pool, str) and options:
        raise InputError("options are for a pool given by name; give them to get_pooler")
    return Regional(get_pooler(pool, **dict(options)) if isinstance(pool, str) else pool, bins)


def _lagged(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], lags):
    deviation = jnp.where(w[:, None] > 0, x - weighted_mean(x, w)[None], 0)
    ends = jnp.cumsum(w)

    def one(lag):
        # Between two of these points neither the token at s nor the one at s + lag changes.
        points = jnp.sort(jnp.clip(jnp.concatenate([ends, ends - lag]), 0, jnp.maximum(ends[-1] - lag, 0)))
        lengths = jnp.diff(points, prepend=0)
        middle = points - lengths / 2
        left, right = (jnp.searchsorted(ends, s, side="right").clip(0, len(ends) - 1) for s in (middle, middle + lag))
        product = jnp.matmul((deviation[left] * lengths[:, None]).T, deviation[right], precision=HIGHEST)
        return safe_ratio(product, jnp.sum(lengths))

    return jax.lax.map(one, jnp.asarray(lags, w.dtype)).reshape(-1)


@register("lagged_covariance")
def lagged_covariance(*, lags: Sequence[int] = (1,)) -> FunctionPooler:
    """Σ_k = mean of (x_i − μ)(x_{i+k} − μ)ᵀ over the pairs k tokens apart, for every lag k; size len(lags)·d².

    Not symmetric: rows are the earlier token's features. 0 where a sequence has no such pair.
    """
    if isinstance(lags, int) or not lags:
        raise InputError(f"lags must be a non-empty list of whole numbers >= 1, got {lags!r}")
    for lag in lags:
        check_sizes(lags=lag)
    return FunctionPooler("lagged_covariance", _lagged, permutation_invariant=False, options=(("lags", tuple(lags)),))


def _dct(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], k):
    length = jnp.sum(w)
    frequency = jnp.arange(k, dtype=w.dtype)[:, None]
    middle = safe_ratio(jnp.cumsum(w) - w / 2, length)
    share = safe_ratio(w, length)
    # ∫ cos(πjs) over a token's interval, as a product: the difference of two sines would lose its digits.
    scale = jnp.where(frequency > 0, 2**0.5, 1) * share[None] * jnp.sinc(frequency * share[None] / 2)
    return jnp.matmul(scale * jnp.cos(jnp.pi * frequency * middle[None]), x, precision=HIGHEST).reshape(-1)


@register("dct")
def dct(*, k: int = 4) -> FunctionPooler:
    """The first `k` cosine coefficients of every feature's series over the length, the mean first; size k·d.

    √2 ∫₀¹ x(s) cos(πjs) ds of the series as steps: the DCT-II over n times sinc(j/2n), whatever the length.
    """
    check_sizes(k=k)
    return FunctionPooler("dct", _dct, permutation_invariant=False, options=(("k", k),))
