"""The raw second moment in one product, at the matrix unit's own speed for bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.inputs import is_concrete
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


def second_moment(
    x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None
) -> Float[Array, "features features"]:
    """M = Σ w_i x_i x_iᵀ / n in one product, float32 or wider accumulation.

    bfloat16 tokens are multiplied as bfloat16, which is exact for weights 0 and 1; other weights are rounded with the
    tokens. Against `moments(x).second_moment()` this saves the shift; it does not give a covariance.

    Two compiled steps on purpose: on CPU a bfloat16 product over the tokens' axis falls off the fast path unless its
    left operand was transposed by a separate computation. Call it outside `jit` and `vmap`, one sequence
    at a time, for that speed there.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights. Inside `jit` a fully
            masked sequence yields 0.
    """
    x = check_tokens(x)
    weights = check_weights(weights, x.shape[0])
    x = jnp.asarray(x)
    weights = None if weights is None else jnp.asarray(weights)
    on_cpu = is_concrete(x) and is_concrete(weights) and all(device.platform == "cpu" for device in x.devices())
    total = _by_chunks(x, weights) if on_cpu else _sum(x, weights)
    return safe_ratio(total, jnp.sum(token_weights(x, weights)[0]))
