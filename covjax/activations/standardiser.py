"""Mean and deviation of every feature over the training tokens, the first thing that every recipe fits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.activations.tokens import ArrayTokens, Batch
from covjax.distributed import agree, gather, is_first
from covjax.moments import Moments, merge, moments
from covjax.standardise import live_deviation, note_dead

Fit = tuple[np.ndarray, np.ndarray]  # mean and deviation of every feature over the training tokens


@jax.jit
def _batch_moments(total: Moments, x: Float[Array, "b t d"], w: Float[Array, "b t"]) -> Moments:
    each = jax.vmap(moments)(x, w)
    return jax.lax.scan(lambda a, b: (merge(a, b), None), total, each)[0]


def standardiser(tokens: ArrayTokens, train: np.ndarray) -> Fit:
    """Mean and deviation of every feature over all tokens of the training rows.

    A dead feature gets the deviation 1 and is noted. Of all processes' rows, the same in all of them, which must
    call it together.
    """
    total = Moments.zeros(tokens.features)
    for batch in tokens.walk("standardise"):
        total = _batch_moments(total, jnp.asarray(batch.tokens), jnp.asarray(train_weights(batch, train)))
    parts = jax.tree.map(lambda leaf: gather(np.asarray(leaf)[None]), total)
    every = [jax.tree.map(lambda leaf, i=i: leaf[i], parts) for i in range(jax.process_count())]
    total = functools.reduce(merge, every)
    std = np.sqrt(np.diag(np.asarray(total.covariance(), np.float64)))
    if is_first():
        note_dead(std)
    return agree((np.asarray(total.mean, np.float32), live_deviation(std).astype(np.float32)))


def train_weights(batch: Batch, train: np.ndarray) -> Float[np.ndarray, "b t"]:
    """The batch's weights with every sequence that is not a training row at 0."""
    keep = np.zeros((len(batch.tokens), 1), np.float32)
    keep[: len(batch.rows), 0] = np.isin(batch.rows, train)
    return batch.weights * keep
