"""Token activations by number of the sequence, from a store, from memory, or straight from an encoder."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from covjax.data.store import TokenStore
from covjax.encoders.base import Encoder
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

    With `encoder`, a store of another encoder is refused.
    """

    def __init__(self, folder: str, layer: int, encoder: str = ""):
        self._store = TokenStore(folder, layer)
        if encoder and encoder != self._store.run["identity"]["encoder"]:
            made = self._store.run["identity"]["encoder"]
            raise InputError(f"store: {folder} holds activations of the encoder {made!r}, not of {encoder!r}")
        self.lengths = self._store.lengths()
        self.features = self._store.features
        self.identity = {"extraction": self._store.run["identity"], "layer": layer, "tokens": self._store.digest}

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """See `Activations`."""
        return [self._store[int(row)] for row in rows]


class EncodedActivations:
    """Activations that a frozen encoder computes whenever they are read; raises InputError like `encoder.encode`."""

    def __init__(self, encoder: Encoder, sequences: Sequence[str], layer: int, token_budget: int, max_shapes: int):
        self._encoder, self._layer, self._budget = encoder, layer, token_budget
        self._tokens = [encoder.encode(sequence) for sequence in sequences]
        self._edges = bucket_edges(np.array([len(ids) for ids in self._tokens]), max_shapes)
        self.features = encoder.features(layer)
        pools = [encoder.pad([ids], len(ids))[2] for ids in self._tokens]
        self.lengths = np.array([int(pool.sum()) for pool in pools])
        digest = hashlib.sha256()
        for ids in self._tokens:
            digest.update(np.asarray(ids, np.int64).tobytes() + b";")
        self.identity = {
            "encoder": encoder.name,
            "weights": encoder.weights_digest,
            "layer": layer % encoder.num_layers,
            "input": digest.hexdigest(),
        }

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "tokens features"]]:
        """See `Activations`."""
        chosen = [self._tokens[int(row)] for row in rows]
        out: list[Any] = [None] * len(chosen)
        for index, layers, mask in embed_tokens(
            self._encoder, chosen, None, (self._layer,), self._budget, edges=self._edges
        ):
            values = np.asarray(layers[self._layer])
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


def hold(activations: Activations, dtype: Any, max_gib: float) -> Activations:
    """The same activations read once into memory, where `tokens · features` of `dtype` take at most `max_gib`."""
    size = int(activations.lengths.sum()) * activations.features * np.dtype(dtype).itemsize
    if size > max_gib * 2**30:
        return activations
    order = np.argsort(activations.lengths, kind="stable")  # neighbours in length share the encoder's batches
    arrays: list[Any] = [None] * len(order)
    for part in np.array_split(order, max(1, len(order) // 1024)):
        for row, x in zip(part, activations.read([int(i) for i in part])):
            arrays[int(row)] = np.asarray(x).astype(dtype)
    return HeldActivations(arrays, activations.identity)
