"""What a finished autoencoder is worth on the held-out sequences, beyond the figures of its log."""

from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Int

from covjax.autoencoders.sparse.metrics import Sums, density_histogram, loss_recovered
from covjax.data.activations import Activations, EncodedActivations
from covjax.encoders.head import through_head
from covjax.errors import InputError

HEAD_SEQUENCES = 200  # at most so many go through the encoder's head, whose activations are all held in memory
CHUNK = 4096  # tokens reconstructed at a time


def held_out_report(
    model: Any,
    figures: dict[str, float],
    total: Any,
    source: Activations,
    rows: Int[np.ndarray, "m"],
    token_budget: int = 8192,
) -> dict[str, Any]:
    """`figures`, and what else can be said, as JSON: a sparse autoencoder's density histogram and loss recovered.

    The loss is that of the encoder's own head with the reconstruction in the place of the layer's activations, over the
    first `HEAD_SEQUENCES` of the held-out sequences; it needs an autoencoder that maps tokens to tokens, an encoder
    with a head, and sequences: a store of activations has none. Where there is no loss to recover the report says why.

    Args:
        total: sums of all held-out batches, of `make_evaluation`.
        source: what the activations come from, before they were held in memory.
        rows: the held-out sequences.
        token_budget: tokens per batch of the encoder.
    """
    report: dict[str, Any] = {"figures": figures}
    if isinstance(total, Sums):
        report["density"] = density_histogram(total)
    if (
        getattr(model, "examples", "") == "tokens"
        and callable(model)
        and isinstance(source, EncodedActivations)
        and getattr(source.encoder, "has_head", False)
    ):
        encoded = [source.tokens[int(row)] for row in rows[:HEAD_SEQUENCES]]
        try:
            report["loss_recovered"] = {"sequences": len(encoded)} | _recovered(model, source, encoded, token_budget)
        except InputError as error:  # the training is done, whatever these sequences allow
            report["loss_recovered"] = {"skipped": str(error)}
    return report


def _recovered(model: Any, source: EncodedActivations, encoded: list[Any], token_budget: int) -> dict[str, float]:
    activations, loss = through_head(source.encoder, source.layer, encoded, token_budget=token_budget)
    x = np.asarray(activations, np.float32)
    reconstruct = nnx.jit(lambda model, x: model(x))
    padded = np.pad(x, ((0, -len(x) % CHUNK), (0, 0)))
    back = np.concatenate([np.asarray(reconstruct(model, p)) for p in np.split(padded, len(padded) // CHUNK)])
    return loss_recovered(loss, x, back[: len(x)], x.mean(0))
