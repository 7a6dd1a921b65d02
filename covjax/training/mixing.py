"""Batches of tokens that are not in memory: every sequence is read once an epoch, and tokens of many still meet.

Mixing all tokens of a store means to read a whole sequence for each token used. Here an epoch permutes the sequences,
cuts them into blocks and permutes the tokens of every block; a batch takes its share from many places of that order,
the lanes, which lie far apart. So about `mix_tokens` tokens are held, and each is read once; a block on the border of
two lanes, by both.
"""

import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from covjax.data.activations import Activations
from covjax.training.batches import EVERYTHING, TokenBatches, check_finite


class _Epoch(NamedTuple):
    """Sequences in the order of one epoch, and the tokens up to the end of every block of them."""

    order: Int[np.ndarray, "n"]
    ends: Int[np.ndarray, "blocks"]


class MixedTokenBatches(TokenBatches):
    """Batches (size, features) of single tokens from all sequences of `rows`, about `mix_tokens` of them at a time.

    Row r of a batch belongs to lane ⌊r·lanes/size⌋, so what a batch holds depends on the step alone, and a process that
    gets some rows of it reads only the sequences of their lanes. Every lane runs through its own part of each epoch:
    no token is lost or stands twice in it. There are at most `most_lanes`, as many as divide a batch: more can be
    shared by more processes, fewer are read in larger blocks.
    """

    def __init__(
        self,
        activations: Activations,
        rows: Int[np.ndarray, "n"],
        size: int,
        dtype: Any,
        mix_tokens: int,
        most_lanes: int = 64,
    ):
        super().__init__(activations, rows, size, dtype)
        mixed = max(1, int(mix_tokens * len(rows) / self.count))  # sequences
        self.lanes = max(n for n in range(1, min(most_lanes, size, mixed) + 1) if size % n == 0)
        self.block, self.mix_tokens = mixed // self.lanes, mix_tokens
        self.order = f"blocks of {self.block} sequences in {self.lanes} lanes"

    def training(self, steps: int, seed: int, part: slice = EVERYTHING) -> Any:
        """As `TokenBatches.training`; what is read for one batch stays for the next ones that use it."""
        import grain

        self.refuse_short()
        first, stop, _ = part.indices(self.size)
        rows = np.arange(first, stop)
        own, block = self.mix_tokens * len(rows) / self.size, self.mix_tokens / self.lanes
        # More than is mixed: an earlier batch, still at work, may need a block again that a later one left behind.
        reader = _Reader(self, seed, 1.25 * own + block)
        return grain.MapDataset.range(steps).map(lambda step: (reader.gather(step, rows), None))

    def places(self, step: int, rows: Int[np.ndarray, "b"]) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
        """Epoch, and place in its order of tokens, of some rows of a step's batch."""
        each = self.size // self.lanes
        lane, position = rows // each, step * each + rows % each
        start, end = self.count * lane // self.lanes, self.count * (lane + 1) // self.lanes
        return position // (end - start), start + position % (end - start)


class _Reader:
    """The blocks in use by one stream; Grain's threads share it."""

    def __init__(self, batches: MixedTokenBatches, seed: int, most_tokens: float):
        self._batches, self._seed, self._most_tokens = batches, seed, most_tokens
        self._lock = threading.Lock()
        self._held: dict[int, np.ndarray] = {}  # by epoch · blocks + block; the one used last stands last
        self._epochs: dict[int, _Epoch] = {}

    def gather(self, step: int, rows: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b d"]:
        batches = self._batches
        epochs, places = batches.places(step, rows)
        keys = np.empty(len(rows), np.int64)
        within = np.empty(len(rows), np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            ends = self._epoch(epoch).ends
            block = np.searchsorted(ends, places[here], "right")
            keys[here] = epoch * len(ends) + block
            within[here] = places[here] - np.concatenate([[0], ends])[block]
        out = np.empty((len(rows), batches.activations.features), batches.dtype)
        used, inverse = np.unique(keys, return_inverse=True)
        for number, tokens in enumerate(self._get(used.tolist())):
            here = np.flatnonzero(inverse == number)
            out[here] = tokens[within[here]]
        return out

    def _epoch(self, epoch: int) -> _Epoch:
        if (found := self._epochs.get(epoch)) is not None:
            return found
        count = len(self._batches.rows)
        order = np.random.default_rng([self._seed, 0, epoch]).permutation(count)
        tokens = np.cumsum(self._batches.lengths[order])
        last = np.minimum(np.arange(1, -(-count // self._batches.block) + 1) * self._batches.block, count) - 1
        made = _Epoch(order, tokens[last])
        # Lanes change epochs almost together. A new dictionary: another thread may be looking into this one.
        self._epochs = {n: e for n, e in self._epochs.items() if abs(n - epoch) <= 1} | {epoch: made}
        return made

    def _get(self, keys: list[int]) -> list[Float[np.ndarray, "tokens d"]]:
        with self._lock:  # a block that two threads want is read once
            for key in keys:
                self._held[key] = self._held.pop(key) if key in self._held else self._read(key)
            out = [self._held[key] for key in keys]
            total = sum(len(tokens) for tokens in self._held.values())
            for key in list(self._held)[: len(self._held) - len(keys)]:
                if total > self._most_tokens:
                    total -= len(self._held.pop(key))
        return out

    def _read(self, key: int) -> Float[np.ndarray, "tokens d"]:
        size = self._batches.block
        epoch, block = divmod(key, -(-len(self._batches.rows) // size))
        rows = self._batches.rows[self._epoch(epoch).order[block * size : (block + 1) * size]]
        sequences = self._batches.activations.read(rows.tolist())
        tokens = np.concatenate(sequences)
        if np.dtype(self._batches.dtype).itemsize < tokens.itemsize:
            tokens = tokens.astype(self._batches.dtype)
        check_finite(tokens, np.repeat(rows, [len(x) for x in sequences]))
        return tokens[np.random.default_rng([self._seed, 1, epoch, block]).permutation(len(tokens))]
