"""Token activations of a data set, in batches, held in memory where they fit."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.data import Dataset
from covjax.encoders import Encoder, embed
from covjax.moments import Moments, merge, moments

Batch = tuple[np.ndarray, Float[np.ndarray, "b t d"], np.ndarray]  # rows, tokens, weights


def token_batches(
    encoder: Encoder, data: Dataset, layer: int, token_budget: int, max_gib: float
) -> Callable[[], Iterator[Batch]]:
    """Return a function that walks once over all batches `(rows, tokens, weights)`; call it as often as needed.

    Activations are kept after the first walk where `tokens x features x 4 bytes` is at most `max_gib`; otherwise every
    walk runs the encoder again, which costs time instead of memory.
    """
    kept: list[Batch] = []
    fits = sum(map(len, data.sequences)) * encoder.features(layer) * 4 <= max_gib * 2**30

    def walk() -> Iterator[Batch]:
        if kept:
            yield from kept
            return
        fresh = []
        for rows, layers, mask in embed(encoder, data.sequences, (layer,), token_budget=token_budget):
            batch = (np.asarray(rows), np.asarray(layers[layer]), np.asarray(mask, np.float32))
            if fits:
                fresh.append(batch)
            yield batch
        kept.extend(fresh)

    return walk


@jax.jit
def _batch_moments(total: Moments, x: Float[Array, "b t d"], w: Float[Array, "b t"]) -> Moments:
    each = jax.vmap(moments)(x, w)
    return jax.lax.scan(lambda a, b: (merge(a, b), None), total, each)[0]


def standardiser(batches: Iterator[Batch], features: int, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every feature over all tokens of the training rows; a dead channel gets deviation 1.

    Dead means a deviation below 1e-6 of the largest one: dividing by rounding noise would blow it up to unit variance.
    """
    total = Moments.zeros(features)
    for rows, tokens, weights in batches:
        keep = np.zeros(len(tokens), np.float32)
        keep[: len(rows)] = np.isin(rows, train)
        total = _batch_moments(total, jnp.asarray(tokens), jnp.asarray(weights * keep[:, None]))
    std = np.sqrt(np.diag(np.asarray(total.covariance(), np.float64)))
    dead = std <= 1e-6 * std.max()
    return np.asarray(total.mean, np.float32), np.where(dead, 1.0, std).astype(np.float32)
