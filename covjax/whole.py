"""The raw second moment in one product, at the matrix unit's own speed for bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.tokens import check_tokens, check_weights, safe_ratio, token_weights

_CHUNK = 8192  # longer contractions fall out of the cache and lose half the speed
_NARROW, _NARROW_CHUNK = 64, 512  # a CPU without matrix units sums narrow products token by token: keep the sums short


@partial(jax.jit, static_argnames="length")
def _masked_transpose(x, w, keep, start, length):
    x, w, keep = (jax.lax.dynamic_slice_in_dim(a, start, length) for a in (x, w, keep))
    clean = jnp.where(keep[:, None], x, 0)
    return (clean * w[:, None].astype(x.dtype)).T, clean


@jax.jit
def _product(left, right):
    dtype = jnp.promote_types(right.dtype, jnp.float32)
    precision = jax.lax.Precision.HIGHEST if right.dtype == dtype else None
    return jnp.matmul(left, right, precision=precision, preferred_element_type=dtype)


def second_moment(
    x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None
) -> Float[Array, "features features"]:
    """M = Σ w_i x_i x_iᵀ / n in one product, float32 or wider accumulation.

    bfloat16 tokens are multiplied as bfloat16, which is exact for weights 0 and 1; other weights are rounded with the
    tokens. Against `moments(x).second_moment()` this saves the shift; it does not give a covariance.

    Two compiled steps on purpose: on CPU a bfloat16 product over the tokens' axis falls off the fast path unless its
    left operand was transposed by a separate computation. Call it outside `jit` and `vmap`, one sequence
    at a time, for that speed.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights. Inside `jit` a fully
            masked sequence yields 0.
    """
    check_tokens(x)
    check_weights(weights, x.shape[0])
    x = jnp.asarray(x)
    w, keep = token_weights(x, weights)
    total = jnp.zeros((), w.dtype)
    chunk = _CHUNK if x.shape[1] >= _NARROW else _NARROW_CHUNK
    for start in range(0, x.shape[0], chunk):
        left, right = _masked_transpose(x, w, keep, start, min(chunk, x.shape[0] - start))
        total = total + _product(left, right)
    return safe_ratio(total, jnp.sum(w))
