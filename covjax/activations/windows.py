"""Token activations by row: from an encoder, a store, or memory."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from covjax.data.sequences import read_sequences
from covjax.data.store import TokenStore, input_digest
from covjax.encoders.base import Encoder
from covjax.encoders.embed import bucket_edges, embed_tokens
from covjax.encoders.loading import load
from covjax.errors import InputError, shown


@runtime_checkable
class Activations(Protocol):
    """What training reads from. `identity` says which data it is: a checkpoint of other data is refused by it."""

    features: int
    lengths: Int[np.ndarray, "n"]
    identity: dict[str, Any]

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "_ features"]]:
        """Activations of the sequences with these numbers."""


class StoredActivations:
    """Activations that `covjax extract --keep-tokens true` wrote; raises InputError like `TokenStore`.

    Several layers stand side by side in every token, in their order. With `encoder` (any name or folder that `load`
    takes), a store made with other weights is refused. `sequences` is the file that was extracted, for a store of an
    earlier version of covjax, which has no letters; another file is refused.
    """

    def __init__(self, folder: str, layer: int | tuple[int, ...], encoder: str = "", sequences: str = ""):
        self.layers = _layers(layer)
        self._stores = [TokenStore(folder, each) for each in self.layers]
        first = self._stores[0]
        made = first.run["identity"]
        self.encoder = load(encoder) if encoder else None
        if self.encoder is not None and self.encoder.weights_digest != made["weights"]:
            raise InputError(
                f"store: {folder} holds activations of the encoder {made['encoder']!r}, not of {encoder!r}: "
                "their weights differ"
            )
        self.lengths = first.lengths
        self.features = sum(store.features for store in self._stores)
        number: Any = layer if isinstance(layer, int) else list(layer)
        self.identity = {"extraction": made, "layer": number, "tokens": first.digest}
        entries = read_sequences(sequences) if sequences else None
        if entries is not None and input_digest(*entries) != made["input"]:
            raise InputError(f"sequences: {sequences} is not the file that was extracted into {folder}")
        self._sequences = None if entries is None else entries[1]

    def token_ids(self, rows: Sequence[int]) -> list[Any]:
        """The encoder's token ids of the sequences with these numbers, from the store's own letters.

        Raises InputError for a store without letters, and for sequences that were cut into windows.
        """
        assert self.encoder is not None
        out, run = [], self._stores[0].run
        for row in map(int, rows):
            letters = self._stores[0].read_texts([row])[0][1].letters if not self._sequences else self._sequences[row]
            ids = self.encoder.encode(letters)
            if 0 < run["identity"]["window"] < len(ids):
                name = run["ids"][row]
                raise InputError(f"store: {shown(name, 40)} was cut into windows, and the head's loss is of whole ones")
            out.append(ids)
        return out

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "_ features"]]:
        """See `Activations`."""
        parts = [store.__getitems__(rows) for store in self._stores]
        return parts[0] if len(parts) == 1 else [np.concatenate(each, axis=1) for each in zip(*parts)]


class EncodedActivations:
    """Activations that a frozen encoder computes whenever they are read; raises InputError like `encoder.encode`.

    tokens: the token ids of every sequence. layers: those that stand side by side in every token.
    """

    def __init__(
        self,
        encoder: Encoder,
        sequences: Sequence[str],
        layer: int | tuple[int, ...],
        token_budget: int,
        max_shapes: int,
    ):
        self.encoder, self.layers, self._budget = encoder, _layers(layer), token_budget
        self.tokens = [encoder.encode(sequence) for sequence in sequences]
        self._edges = bucket_edges(np.array([len(ids) for ids in self.tokens]), max_shapes)
        self.features = sum(encoder.features(each) for each in self.layers)
        pools = [encoder.pad([ids], len(ids))[2] for ids in self.tokens]
        self.lengths = np.array([int(pool.sum()) for pool in pools])
        digest = hashlib.sha256()
        for ids in self.tokens:
            digest.update(np.asarray(ids, np.int64).tobytes() + b";")
        numbers = [each % encoder.num_layers for each in self.layers]
        self.identity = {
            "encoder": encoder.name,
            "weights": encoder.weights_digest,
            "layer": numbers[0] if isinstance(layer, int) else numbers,
            "input": digest.hexdigest(),
        }

    def token_ids(self, rows: Sequence[int]) -> list[Any]:
        """The encoder's token ids of the sequences with these numbers."""
        return [self.tokens[int(row)] for row in rows]

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "_ features"]]:
        """See `Activations`."""
        chosen = self.token_ids(rows)
        out: list[Any] = [None] * len(chosen)
        for index, layers, mask in embed_tokens(
            self.encoder, chosen, None, self.layers, self._budget, edges=self._edges
        ):
            parts = [np.asarray(layers[each]) for each in self.layers]
            values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            for place, row in enumerate(index):
                out[row] = values[place][mask[place]]
        return out


def _layers(layer: int | tuple[int, ...]) -> tuple[int, ...]:
    layers = (layer,) if isinstance(layer, int) else layer
    if len(set(layers)) < len(layers) or not layers:
        raise InputError(f"layers: {layers}: none, or one twice")
    return layers


class HeldActivations:
    """Activations in memory, under the identity of where they come from.

    tokens: (all tokens, features), those of one sequence after those of another.
    lengths: tokens of every sequence.
    starts: where each begins among all tokens; by default where the one before ends.
    origin: what the same sequences were read from, where `hold` read them.
    """

    def __init__(
        self,
        tokens: Float[np.ndarray, "all features"],
        lengths: Int[np.ndarray, "n"] | Sequence[int],
        identity: dict[str, Any],
        starts: Int[np.ndarray, "n"] | None = None,
        origin: Activations | None = None,
    ):
        self.origin = origin
        self.tokens, self.lengths, self.identity = tokens, np.asarray(lengths), identity
        self.features = tokens.shape[1]
        self.starts = np.cumsum(self.lengths) - self.lengths if starts is None else starts

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "_ features"]]:
        """See `Activations`."""
        return [self.tokens[self.starts[row] : self.starts[row] + self.lengths[row]] for row in rows]


def join(arrays: Sequence[Float[np.ndarray, "_ features"]], identity: dict[str, Any]) -> HeldActivations:
    """A copy of arrays of one type as activations in memory."""
    return HeldActivations(np.concatenate(arrays), np.array([len(x) for x in arrays]), identity)


class Subset:
    """Some sequences of other activations, numbered anew; see `take`."""

    def __init__(self, whole: Activations, rows: Int[np.ndarray, "n"]):
        self._whole, self._rows = whole, rows
        self.features, self.lengths = whole.features, whole.lengths[rows]
        self.identity = whole.identity | {"rows": rows.tolist()}

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "_ features"]]:
        """See `Activations`."""
        return self._whole.read([int(self._rows[row]) for row in rows])


def take(activations: Activations, rows: Int[np.ndarray, "n"]) -> Activations:
    """Some sequences of activations, numbered anew; nothing is copied."""
    part = Subset(activations, np.asarray(rows))
    if not isinstance(activations, HeldActivations):
        return part
    return HeldActivations(activations.tokens, part.lengths, part.identity, activations.starts[rows])


def hold(activations: Activations, dtype: Any, max_gib: float) -> Activations:
    """The same activations read once into memory, where `tokens · features` of `dtype` take at most `max_gib`."""
    if isinstance(activations, HeldActivations):
        return activations
    count = int(activations.lengths.sum())
    if count * activations.features * np.dtype(dtype).itemsize > max_gib * 2**30:
        return activations
    space = np.empty((count, activations.features), dtype)
    held = HeldActivations(
        space, activations.lengths, activations.identity, origin=getattr(activations, "origin", None) or activations
    )
    order = np.argsort(activations.lengths, kind="stable")  # neighbours in length share the encoder's batches
    for part in np.array_split(order, max(1, len(order) // 1024)):
        for place, x in zip(held.read(part.tolist()), activations.read(part.tolist())):
            place[:] = x
    return held
