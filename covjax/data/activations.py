"""Token activations by number of the sequence, from a store, from memory, or straight from an encoder."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from covjax.data.store import TokenStore
from covjax.encoders.base import Encoder, load
from covjax.encoders.embed import bucket_edges, embed_tokens
from covjax.errors import InputError


class Activations(Protocol):
    """What training reads from. `identity` says which data it is: a checkpoint of other data is refused by it."""

    features: int
    lengths: Int[np.ndarray, "n"]
    identity: dict[str, Any]

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """Activations of the sequences with these numbers."""


class StoredActivations:
    """Activations that `train.extract --keep-tokens true` wrote; raises InputError like `TokenStore`.

    With `encoder` (any name or folder that `load` takes), a store made with other weights is refused.
    """

    def __init__(self, folder: str, layer: int, encoder: str = ""):
        self._store = TokenStore(folder, layer)
        made = self._store.run["identity"]
        if encoder and load(encoder).weights_digest != made["weights"]:
            raise InputError(
                f"store: {folder} holds activations of the encoder {made['encoder']!r}, not of {encoder!r}: "
                "their weights differ"
            )
        self.lengths = self._store.lengths()
        self.features = self._store.features
        self.identity = {"extraction": self._store.run["identity"], "layer": layer, "tokens": self._store.digest}

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """See `Activations`."""
        return [self._store[int(row)] for row in rows]


class EncodedActivations:
    """Activations that a frozen encoder computes whenever they are read; raises InputError like `encoder.encode`.

    tokens: the token ids of every sequence.
    """

    def __init__(self, encoder: Encoder, sequences: Sequence[str], layer: int, token_budget: int, max_shapes: int):
        self.encoder, self.layer, self._budget = encoder, layer, token_budget
        self.tokens = [encoder.encode(sequence) for sequence in sequences]
        self._edges = bucket_edges(np.array([len(ids) for ids in self.tokens]), max_shapes)
        self.features = encoder.features(layer)
        pools = [encoder.pad([ids], len(ids))[2] for ids in self.tokens]
        self.lengths = np.array([int(pool.sum()) for pool in pools])
        digest = hashlib.sha256()
        for ids in self.tokens:
            digest.update(np.asarray(ids, np.int64).tobytes() + b";")
        self.identity = {
            "encoder": encoder.name,
            "weights": encoder.weights_digest,
            "layer": layer % encoder.num_layers,
            "input": digest.hexdigest(),
        }

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """See `Activations`."""
        chosen = [self.tokens[int(row)] for row in rows]
        out: list[Any] = [None] * len(chosen)
        for index, layers, mask in embed_tokens(
            self.encoder, chosen, None, (self.layer,), self._budget, edges=self._edges
        ):
            values = np.asarray(layers[self.layer])
            for place, row in enumerate(index):
                out[row] = values[place][mask[place]]
        return out


class HeldActivations:
    """Activations in memory: arrays (tokens, features) of one type, under the identity of where they come from."""

    def __init__(self, arrays: Sequence[Float[np.ndarray, "tokens features"]], identity: dict[str, Any]):
        self._arrays = list(arrays)
        self.lengths = np.array([len(x) for x in self._arrays])
        self.features = self._arrays[0].shape[1]
        self.identity = identity

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """See `Activations`."""
        return [self._arrays[int(row)] for row in rows]


class Subset:
    """Some sequences of other activations, numbered anew; nothing is copied."""

    def __init__(self, whole: Activations, rows: Int[np.ndarray, "n"]):
        self.whole, self.rows = whole, np.asarray(rows)
        self.features, self.lengths = whole.features, whole.lengths[self.rows]
        self.identity = whole.identity | {"rows": [int(row) for row in self.rows]}

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """See `Activations`."""
        return self.whole.read([int(self.rows[row]) for row in rows])


def origin(activations: Activations) -> Activations:
    """What activations are read from: of some of others, the others."""
    return activations.whole if isinstance(activations, Subset) else activations


def hold(activations: Activations, dtype: Any, max_gib: float) -> Activations:
    """The same activations read once into memory, where `tokens · features` of `dtype` take at most `max_gib`."""
    if isinstance(origin(activations), HeldActivations):
        return activations
    size = int(activations.lengths.sum()) * activations.features * np.dtype(dtype).itemsize
    if size > max_gib * 2**30:
        return activations
    order = np.argsort(activations.lengths, kind="stable")  # neighbours in length share the encoder's batches
    arrays: list[Any] = [None] * len(order)
    for part in np.array_split(order, max(1, len(order) // 1024)):
        for row, x in zip(part, activations.read([int(i) for i in part])):
            arrays[int(row)] = np.asarray(x).astype(dtype)
    return HeldActivations(arrays, activations.identity)
