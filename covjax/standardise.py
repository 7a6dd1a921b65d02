"""Mean and deviation of features, and tokens divided by them."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from covjax.errors import InputError
from covjax.inputs import exact_mean, host_array
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


Batch = tuple[Array | np.ndarray, Array | np.ndarray | None]  # x (b, t, d), weights (b, t) or None for ones


class Statistic(nnx.Variable[Array]):
    """What is measured on data once and kept: no parameter."""


def merge_statistics(a: Float[np.ndarray, "3 d"], b: Float[np.ndarray, "3 d"]) -> Float[np.ndarray, "3 d"]:
    """Count, mean and squares about it of every feature over both parts (Chan, Golub, LeVeque 1983)."""
    count, delta = a[0] + b[0], b[1] - a[1]
    share = np.divide(b[0], count, out=np.zeros_like(count), where=count > 0)
    return np.stack([count, a[1] + share * delta, a[2] + b[2] + a[0] * share * delta**2])


def feature_statistics(
    batches: Iterable[Batch],
) -> tuple[Float[np.ndarray, "features"], Float[np.ndarray, "features"]]:
    """Mean and standard deviation of every feature over all tokens, summed in float64; a dead feature gets 1.

    Raises InputError for NaN or infinite tokens, and where every feature is constant.
    """
    total = None
    for x, weights in batches:
        w = np.ones(x.shape[:-1]) if weights is None else host_array(weights, "weights").astype(np.float64)
        if not w.any():
            continue
        w, tokens = w[w > 0], host_array(x, "activations").astype(np.float64)[w > 0]
        if not np.isfinite(tokens).all():
            raise InputError("activations: NaN or infinite values among the tokens")
        mean = exact_mean(tokens, w)
        own = np.stack([np.full(len(mean), w.sum()), mean, w @ np.square(tokens - mean)])
        total = own if total is None else merge_statistics(total, own)
    if total is None:
        raise InputError("activations: no token with a weight above 0")
    count, mean, squares = total
    std = np.sqrt(squares / count)
    if not (std > 1e-6 * np.abs(mean)).any():
        raise InputError("activations: every feature is constant over the tokens; there is nothing to learn")
    return mean.astype(np.float32), live_deviation(std).astype(np.float32)
