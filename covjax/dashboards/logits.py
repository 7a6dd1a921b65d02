"""What a latent does to the logits of the encoder's own head."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from covjax.autoencoders.sparse import SparseAutoencoder
from covjax.encoders.base import layer_index
from covjax.errors import InputError

LISTED = 5  # classes raised most, and as many lowered most
CHUNK = 256


class Logits(NamedTuple):
    """The classes whose logits a latent raises most, then those it lowers most, and by how much."""

    names: tuple[str, ...]
    classes: Int[np.ndarray, "latents listed"]
    effects: Float[np.ndarray, "latents listed"]


def logit_effects(
    encoder: Any,
    layer: int,
    autoencoder: SparseAutoencoder,
    token: Float[np.ndarray, "features"],
    values: Float[np.ndarray, "latents"],
) -> Logits:
    """The head's logits where each latent's decoder row, times its value, is added to a token, less those of the token.

    The token stands alone in its sequence: what is above the layer is the head, and any blocks between. Raises
    InputError for an encoder without a head, and an autoencoder that divides every token by its own size, in which a
    latent has no one effect.
    """
    if not getattr(encoder, "has_head", False):
        raise InputError(f"encoder: {encoder.name} has no head of its pre-training, so no logits; leave --encoder out")
    if autoencoder.rescale != "none":
        raise InputError(f"encoder: rescale is {autoencoder.rescale}: logit effects need an autoencoder without it")
    number = layer_index(layer, encoder.num_layers)
    rows = np.asarray(autoencoder.decoder[...]) / float(autoencoder.scale[...]) * values[:, None]
    mask = np.ones((CHUNK, 1), bool)

    def logits(tokens: np.ndarray) -> np.ndarray:
        x = np.zeros((CHUNK, 1, len(token)), np.float32)
        x[: len(tokens), 0] = tokens
        return np.asarray(encoder.logits(x, mask, number), np.float64)[: len(tokens), 0]

    base = logits(token[None])[0]
    order, effects = [], []
    for start in range(0, len(rows), CHUNK):
        change = logits(token + rows[start : start + CHUNK]) - base
        place = np.argsort(-change, axis=1, kind="stable")
        count = min(LISTED, change.shape[1])
        place = np.concatenate([place[:, :count], place[:, ::-1][:, :count]], axis=1)
        order.append(place)
        effects.append(np.take_along_axis(change, place, 1))
    return Logits(class_names(encoder, len(base)), np.concatenate(order), np.concatenate(effects))


def class_names(encoder: Any, count: int) -> tuple[str, ...]:
    """What the classes of the head stand for: `encoder.classes`, or its vocabulary's words, else their numbers."""
    vocabulary = getattr(encoder, "vocabulary", None)
    words = {number: word for word, number in vocabulary.ids.items()} if vocabulary is not None else {}
    words |= dict(enumerate(getattr(encoder, "classes", ())))
    return tuple(words.get(number, str(number)) for number in range(count))
