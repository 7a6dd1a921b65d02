"""Tokens in deviations from a mean, which survives features that do not vary."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def live_deviation(std: Float[np.ndarray, "features"]) -> Float[np.ndarray, "features"]:
    """The deviations to divide by: 1 for a dead feature, one below 1e-6 of the largest.

    Dividing by such rounding noise would blow it up to unit variance.
    """
    return np.where(std <= 1e-6 * std.max(), 1.0, std)


def standardise(
    x: Float[Array | np.ndarray, "*b tokens features"],
    weights: Float[Array | np.ndarray, "*b tokens"],
    mean: Float[Array | np.ndarray, "features"],
    deviation: Float[Array | np.ndarray, "features"],
) -> Float[Array, "*b tokens features"]:
    """(x − mean) / deviation in float32, 0 where the weight is 0 (masked tokens may hold anything)."""
    return jnp.where(weights[..., None] > 0, (x.astype(jnp.float32) - mean) / deviation, 0)
