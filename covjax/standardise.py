"""Tokens in deviations from a mean, which survives features that do not vary."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covjax.notes import note


def dead_features(std: Float[np.ndarray, "features"]) -> Bool[np.ndarray, "features"]:
    """Which features do not vary: their deviation is at most 1e-6 of the largest."""
    return std <= 1e-6 * std.max()


def live_deviation(std: Float[np.ndarray, "features"]) -> Float[np.ndarray, "features"]:
    """The deviations to divide by: 1 for a dead feature (`dead_features`).

    Dividing by such rounding noise would blow it up to unit variance.
    """
    return np.where(dead_features(std), 1.0, std)


def note_dead(std: Float[np.ndarray, "features"]) -> None:
    """Say how many features are dead and which is the first; nothing where all of them vary."""
    dead = dead_features(std)
    if dead.any():
        verb = "does not vary and is" if dead.sum() == 1 else "do not vary and are"
        note(
            f"{dead.sum():,} of {len(dead):,} features {verb} not scaled: deviation at most 1e-6 of the largest, "
            f"first feature {int(np.argmax(dead))}"
        )


def standardise(
    x: Float[Array | np.ndarray, "*b tokens features"],
    weights: Float[Array | np.ndarray, "*b tokens"],
    mean: Float[Array | np.ndarray, "features"],
    deviation: Float[Array | np.ndarray, "features"],
) -> Float[Array, "*b tokens features"]:
    """(x − mean) / deviation in float32, 0 where the weight is 0 (masked tokens may hold anything)."""
    mean, deviation = (jnp.expand_dims(each, range(x.ndim - 1)) for each in (mean, deviation))
    return jnp.where(weights[..., None] > 0, (x.astype(jnp.float32) - mean) / deviation, 0)
