"""Sparse codes of a store's tokens: which latents are active where, and how much."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from scipy import sparse

from covjax.autoencoders.sparse import SparseAutoencoder
from covjax.autoencoders.sparse.kinds import TopK
from covjax.data.store import Text, TokenStore
from covjax.errors import InputError
from covjax.notes import progress

BLOCK = 1024  # tokens encoded together
TOGETHER = 2**15  # tokens read together
MOST_CODES = 2**27  # active latents of all tokens; each takes about 24 bytes


class Corpus(NamedTuple):
    """Sequences of a store in its order: their numbers there, ids, letters, and the place of each one's first token.

    `mean` is that of all their tokens.
    """

    rows: Int[np.ndarray, "n"]
    ids: Sequence[str]
    texts: Sequence[Text]
    starts: Int[np.ndarray, "n+1"]
    mean: Float[np.ndarray, "features"]


def choose_sequences(lengths: Int[np.ndarray, "n"], tokens: int, seed: int) -> Int[np.ndarray, "m"]:
    """Numbers of all sequences, or of so many random ones as have at most `tokens` tokens together; at least one."""
    if lengths.sum() <= tokens:
        return np.arange(len(lengths))
    order = np.random.default_rng(seed).permutation(len(lengths))
    return np.sort(order[: max(1, int(np.searchsorted(np.cumsum(lengths[order]), tokens, "right")))])


def encode_store(
    autoencoder: SparseAutoencoder, store: TokenStore, rows: Int[np.ndarray, "n"]
) -> tuple[Corpus, sparse.csr_matrix]:
    """The sequences with these numbers, and the codes (tokens, latents) of their tokens, one after the other.

    Raises InputError for an autoencoder of another width, more than `MOST_CODES` active latents, NaN and inf, and a
    store without letters.
    """
    if autoencoder.features != store.features:
        raise InputError(
            f"store: its tokens have {store.features} features, the autoencoder's {autoencoder.features}; name the "
            "store and the layer that it was trained on"
        )
    lengths = store.lengths[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values, latents, counts, texts = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), list[Text]()
    total, codes = np.zeros(store.features), 0
    encode = _compiled(autoencoder)
    waiting = np.empty((0, store.features), np.float32)
    with progress(total=int(starts[-1]), unit="tok", unit_scale=True) as bar:
        for part in np.split(rows, np.flatnonzero(np.diff(starts[1:] // TOGETHER)) + 1):
            read = store.read_texts(part.tolist())
            texts += [text for _, text in read]
            block = np.concatenate([tokens for tokens, _ in read]).astype(np.float32)
            total += block.sum(0, dtype=np.float64)
            waiting = np.concatenate([waiting, block])
            full = len(waiting) if part[-1] == rows[-1] else len(waiting) // BLOCK * BLOCK
            for start in range(0, full, BLOCK):
                value, latent, count = encode(waiting[start : min(start + BLOCK, full)])
                values.append(value)
                latents.append(latent)
                counts.append(count)
                codes += len(value)
                if codes > MOST_CODES:
                    done = sum(map(len, counts))
                    raise InputError(
                        f"autoencoder: over {MOST_CODES:,} active latents in the first {done:,} tokens; "
                        f"read fewer: --tokens {done * MOST_CODES // codes}"
                    )
            waiting = waiting[full:]
            bar.update(len(block))
    if not np.isfinite(total).all():
        raise InputError("store: NaN or infinite activations")
    ends = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    matrix = sparse.csr_matrix(
        (np.concatenate(values), np.concatenate(latents), ends), (int(starts[-1]), autoencoder.latents)
    )
    ids = [store.run["ids"][row] for row in rows]
    return Corpus(rows, ids, texts, starts, total / starts[-1]), matrix


def _compiled(autoencoder: SparseAutoencoder) -> Any:
    """A function from at most `BLOCK` tokens to their active values, the latents, and how many each token has."""
    graph, state = nnx.split(autoencoder)
    few = isinstance(autoencoder, TopK)

    @nnx.jit
    def codes(state: nnx.State, x: Array) -> Any:
        module = nnx.merge(graph, state)
        return module.codes(x) if isinstance(module, TopK) else module.encode(x)

    def encode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        padded = np.zeros((BLOCK, x.shape[1]), np.float32)
        padded[: len(x)] = x
        if few:
            values, latents = (np.asarray(each)[: len(x)] for each in codes(state, jnp.asarray(padded)))
        else:
            values = np.asarray(codes(state, jnp.asarray(padded)))[: len(x)]
            latents = np.broadcast_to(np.arange(values.shape[1], dtype=np.int32), values.shape)
        active = values > 0
        return values[active].astype(np.float32), latents[active].astype(np.int32), active.sum(1)

    return encode
