"""The loss of an encoder's own head as a function of one layer's activations.

What an autoencoder's reconstruction costs the model is seen by putting it in the place of the activations.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder, layer_index
from covjax.encoders.embed import bucket_edges, padded_batches
from covjax.encoders.rows import plan_rows
from covjax.errors import InputError


@runtime_checkable
class HeadedEncoder(Encoder, Protocol):
    """An encoder that still has the head of its pre-training, where `has_head`."""

    has_head: bool

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """What the model reads, the class it must give for every token, and the tokens that count."""

    def logits(
        self, activations: Float[Any, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """The head's output, jitted, where layer `layer` (counted from 0) has these activations."""


def through_head(
    encoder: Encoder,
    layer: int,
    encoded: Sequence[Int[np.ndarray, "t"]],
    seed: int = 0,
    token_budget: int = 8192,
    max_shapes: int = 4,
) -> tuple[Float[np.ndarray, "tokens d"], Callable[[Float[Any, "tokens d"]], Float[Array, ""]]]:
    """Activations of the pooled tokens, and the mean cross-entropy of the head as a function of them.

    Args:
        encoded: token ids that `encoder.encode` gave. Special tokens keep their activations.
        seed: of the masked tokens, where the objective masks.

    Raises InputError for an encoder without a head, a layer it does not have, and sequences of which no token counts.
    """
    if not getattr(encoder, "has_head", False):
        raise InputError(f"encoder: {encoder.name} has no head of its pre-training, so no loss to recover")
    assert isinstance(encoder, HeadedEncoder)
    number, rng = layer_index(layer, encoder.num_layers), np.random.default_rng(seed)
    lengths = np.array([len(ids) for ids in encoded])
    plan = plan_rows(lengths, bucket_edges(lengths, max_shapes), 1)
    parts = []
    for _, tokens, mask, pool in padded_batches(encoder, encoded, None, plan, token_budget):
        inputs, targets, counted = encoder.objective(tokens, mask, pool, rng)
        parts.append((np.array(encoder.apply(inputs, mask, (layer,))[layer]), mask, pool, targets, counted))
    total = sum(int(counted.sum()) for *_, counted in parts)
    if not total:
        raise InputError(f"encoded: the head has nothing to predict in {len(encoded)} sequences")

    def loss(flat: Float[Any, "tokens d"]) -> Float[Array, ""]:
        rest, losses = np.asarray(flat), []
        for x, mask, pool, targets, counted in parts:
            own, rest = rest[: pool.sum()], rest[pool.sum() :]
            replaced = x.copy()
            replaced[pool] = own
            each = optax.softmax_cross_entropy_with_integer_labels(encoder.logits(replaced, mask, number), targets)
            losses.append(jnp.sum(jnp.where(counted, each, 0)))
        return sum(losses, jnp.zeros(())) / total

    return np.concatenate([x[pool] for x, _, pool, *_ in parts]), loss
