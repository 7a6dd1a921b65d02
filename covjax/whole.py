"""The raw second moment in one product, at the matrix unit's own speed for bfloat16."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.tokens import check_tokens, check_weights, safe_ratio, token_weights


@jax.jit
def _masked_transpose(x, w, keep):
    clean = jnp.where(keep[:, None], x, 0)
    return (clean * w[:, None].astype(x.dtype)).T, clean


@jax.jit
def _product(left, right, count):
    dtype = jnp.promote_types(right.dtype, jnp.float32)
    precision = jax.lax.Precision.HIGHEST if right.dtype == dtype else None
    return safe_ratio(jnp.matmul(left, right, precision=precision, preferred_element_type=dtype), count)


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
    left, right = _masked_transpose(x, w, keep)
    return _product(left, right, jnp.sum(w))
