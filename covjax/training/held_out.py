"""What a finished autoencoder is worth on the held-out sequences, beyond the figures of its log."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from covjax.autoencoders.sparse.metrics import Sums, density_histogram, loss_recovered
from covjax.data.activations import Activations, EncodedActivations
from covjax.encoders.head import through_head

HEAD_SEQUENCES = 200  # at most so many go through the encoder's head, whose activations are all held in memory
CHUNK = 4096  # tokens reconstructed at a time


def held_out_report(
    model: Any, figures: dict[str, float], total: Any, source: Activations, rows: Int[np.ndarray, "m"]
) -> dict[str, Any]:
    """`figures`, and what else can be said, as JSON: a sparse autoencoder's density histogram and loss recovered.

    The loss is that of the encoder's own head with the reconstruction in the place of the layer's activations, over the
    first `HEAD_SEQUENCES` of the held-out sequences; it needs an autoencoder that maps tokens to tokens, an encoder
    with a head, and sequences: a store of activations has none.

    Args:
        total: sums of all held-out batches, of `make_evaluation`.
        source: what the activations come from, before they were held in memory.
        rows: the held-out sequences.
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
        x, loss = through_head(source.encoder, source.layer, encoded)
        reconstruct = jax.jit(model)
        padded = jnp.asarray(np.pad(x, ((0, -len(x) % CHUNK), (0, 0))), jnp.float32)
        back = jnp.concatenate([reconstruct(part) for part in jnp.split(padded, len(padded) // CHUNK)])[: len(x)]
        recovered = loss_recovered(loss, jnp.asarray(x, jnp.float32), back, jnp.asarray(x, jnp.float32).mean(0))
        report["loss_recovered"] = {"sequences": len(encoded), **recovered}
    return report
