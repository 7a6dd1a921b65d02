"""Mean and deviation of every feature over a data set's tokens, as state of an autoencoder: saved, never trained."""

from collections.abc import Iterable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import exact_mean, host_array
from covjax.standardise import live_deviation

Batch = tuple[Array, Array | None]  # x (b, t, d), weights (b, t) or None for ones


class Statistic(nnx.Variable):
    """What is measured on data once and kept: no parameter."""


def feature_statistics(
    batches: Iterable[Batch],
) -> tuple[Float[np.ndarray, "features"], Float[np.ndarray, "features"]]:
    """Mean and standard deviation of every feature over all tokens, summed in float64; a dead feature gets 1.

    Raises InputError for NaN or infinite tokens, and where every feature is constant.
    """
    count, mean, scatter = 0.0, np.zeros(()), np.zeros(())
    for x, weights in batches:
        w = np.ones(x.shape[:-1]) if weights is None else host_array(weights, "weights").astype(np.float64)
        if not w.any():
            continue
        w, tokens = w[w > 0], host_array(x, "activations").astype(np.float64)[w > 0]
        if not np.isfinite(tokens).all():
            raise InputError("activations: NaN or infinite values among the tokens")
        own = exact_mean(tokens, w)
        share, delta = w.sum() / (count + w.sum()), own - mean
        scatter = scatter + w @ np.square(tokens - own) + count * share * delta**2  # Chan, Golub, LeVeque 1983
        mean, count = mean + share * delta, count + w.sum()
    if not count:
        raise InputError("activations: no token with a weight above 0")
    std = np.sqrt(scatter / count)
    if not (std > 1e-6 * np.abs(mean)).any():
        raise InputError("activations: every feature is constant over the tokens; there is nothing to learn")
    return mean.astype(np.float32), live_deviation(std).astype(np.float32)
