"""One entry for every statistic: check a sequence's tokens and weights, widen to float32, silence masked tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covjax.errors import InputError


def is_concrete(array) -> bool:
    """Whether the values can be looked at, that is, outside `jit`, `vmap` and `grad`."""
    return not isinstance(array, jax.core.Tracer)


def check_tokens(x: Float[Array, "tokens features"], name: str = "x") -> None:
    """Raise TypeError unless `x` is floating point, InputError unless it is (tokens >= 1, features >= 1)."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating-point array (tokens, features), got {dtype or type(x).__name__}")
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"{name} must have shape (tokens >= 1, features >= 1), got {tuple(x.shape)}; batches: jax.vmap"
        )


def check_weights(weights: Float[Array, "tokens"] | None, tokens: int) -> None:
    """Raise InputError for weights of the wrong length and, where values are concrete, negative, NaN or all zero."""
    if weights is None:
        return
    if not hasattr(weights, "shape") or tuple(weights.shape) != (tokens,):
        raise InputError(f"weights must have shape ({tokens},), one per token, got {np.shape(weights)}")
    if is_concrete(weights):
        values = np.asarray(weights, np.float64)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise InputError(f"weights must be finite and >= 0, got {values[bad][0]} at token {int(np.argmax(bad))}")
        if not values.any():
            raise InputError("weights must not all be 0: the sequence has no token to pool")


def token_weights(
    x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None
) -> tuple[Float[Array, "tokens"], Bool[Array, "tokens"]]:
    """Weights in the accumulation type (float32 or wider; ones for None) and which tokens count."""
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32)
    w = jnp.ones(x.shape[0], dtype) if weights is None else jnp.asarray(weights).astype(dtype)
    return w, w > 0


def prepare_tokens(
    x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None, check_values: bool = True
) -> tuple[Float[Array, "tokens features"], Float[Array, "tokens"]]:
    """Tokens in float32 or wider with masked rows set to 0 by selection, so that NaN there reaches nothing.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights.
    """
    check_tokens(x)
    if check_values:
        check_weights(weights, x.shape[0])
    w, keep = token_weights(x, weights)
    x = jnp.asarray(x).astype(w.dtype)
    return (x if weights is None else jnp.where(keep[:, None], x, 0)), w


def safe_ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, and 0 with a finite gradient where the denominator is not positive."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)
