"""What a sparse autoencoder starts from: the geometric median of a sample, and the scale of its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import is_concrete
from covjax.tokens import check_tokens


def geometric_median(
    x: Float[Array, "tokens features"], *, tolerance: float = 1e-6, iterations: int = 200
) -> Float[Array, "features"]:
    """The point with the least sum of distances to the tokens: outliers pull it no more than their number.

    Weiszfeld's iteration in the form of Vardi and Zhang (2000), which does not stop at a token; ends when a step is
    shorter than `tolerance` times the mean distance.

    Raises TypeError and InputError like `covjax.moments`; InputError for NaN or inf.
    """
    x = check_sample(x)
    x = jnp.asarray(x).astype(jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32))

    def advance(carry):
        y, _, count = carry
        difference = x - y[None]
        distance = jnp.linalg.norm(difference, axis=1)
        away = distance > 0
        inverse = jnp.where(away, 1 / jnp.where(away, distance, 1), 0)
        pull = jnp.sum(difference * inverse[:, None], axis=0)
        move = pull / jnp.maximum(jnp.sum(inverse), jnp.finfo(x.dtype).tiny)
        # Tokens at y hold it with their number; it moves only if the others pull harder.
        strength = jnp.linalg.norm(pull)
        share = jnp.sum(~away) / jnp.maximum(strength, jnp.finfo(x.dtype).tiny)
        move = move * jnp.maximum(1 - share, 0)
        return y + move, jnp.linalg.norm(move) > tolerance * jnp.mean(distance), count + 1

    start = jnp.mean(x, axis=0)
    return jax.lax.while_loop(lambda c: c[1] & (c[2] < iterations), advance, (start, jnp.asarray(True), 0))[0]


def norm_scale(x: Float[Array, "tokens features"]) -> Float[Array, ""]:
    """√features / mean ‖x‖: the factor after which a token's mean norm is √features. Errors as `geometric_median`."""
    x = check_sample(x)
    return x.shape[1] ** 0.5 / jnp.mean(jnp.linalg.norm(jnp.asarray(x, jnp.float32), axis=1))


def check_sample(x: Float[Array, "tokens features"]) -> Float[Array, "tokens features"]:
    """x as an array; TypeError or InputError unless (tokens, features), finite, and not the same in all tokens."""
    x = check_tokens(x)
    if is_concrete(x):
        values = np.asarray(x, np.float32)
        if not (finite := np.isfinite(values).all(1)).all():
            raise InputError(f"x must be finite, got {int((~finite).sum())} tokens with NaN or inf")
        if len(values) > 1 and (values == values[0]).all():
            raise InputError(f"x must vary, got {len(values)} equal tokens")
    return x
