"""Tokens are divided by their own deviation or norm before an autoencoder, and restored after it, as in SAELens.

The factor is another one for every token, so it can stand in no weight.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError, shown
from covjax.tokens import safe_ratio

RESCALINGS = ("none", "layer_norm", "constant_norm")
_EPS = 1e-5  # SAELens': added to the deviation of a token, not to its variance


def check_rescaling(name: str, features: int) -> None:
    """Raise InputError unless there is such a rescaling of tokens of that width."""
    if name not in RESCALINGS:
        raise InputError(f"rescale must be one of {', '.join(RESCALINGS)}, got {shown(name)}")
    if name == "layer_norm" and features < 2:
        raise InputError("rescale: layer_norm needs at least 2 features, got 1")


def rescale_tokens(x: Float[Array, "tokens features"], name: str) -> Float[Array, "tokens features"]:
    """The tokens as the encoder reads them.

    layer_norm: (x − m)/(σ + 1e-5) with mean m and deviation σ of the token's features (σ² over features − 1).
    constant_norm: x √features/‖x‖. A token of zeros stays 0 in both.
    """
    if name == "none":
        return x
    shift, factor = _shift(x, name), _factor(x, name)
    return safe_ratio(x - shift, factor + (_EPS if name == "layer_norm" else 0))


def restore_tokens(
    y: Float[Array, "tokens features"], x: Float[Array, "tokens features"], name: str
) -> Float[Array, "tokens features"]:
    """Reconstructions y of rescaled tokens in the units of the tokens x: y σ + m, or y ‖x‖/√features."""
    return y if name == "none" else y * _factor(x, name) + _shift(x, name)


def _shift(x, name):
    return jnp.mean(x, axis=1, keepdims=True) if name == "layer_norm" else jnp.zeros_like(x[:, :1])


def _factor(x, name):
    squares = jnp.sum(jnp.square(x - _shift(x, name)), axis=1, keepdims=True)
    mean = squares / (x.shape[1] - 1 if name == "layer_norm" else x.shape[1])
    return jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1)), 0)  # a derivative at 0 too
