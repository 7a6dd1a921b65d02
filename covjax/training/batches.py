"""Batches of training tokens in shuffled order, mixed from many sequences.

Mixing all tokens of a store means to read a whole sequence for each token used. Here an epoch permutes the sequences,
cuts them into blocks and permutes the tokens of every block; a batch takes its share from many places of that order,
the lanes, which lie far apart. So about `mix_tokens` tokens are held, and each is read once; a block on the border of
two lanes, by both.
"""

import functools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from covjax.activations.windows import Activations, HeldActivations
from covjax.encoders.embed import bucket_edges
from covjax.errors import InputError

Batch = tuple[Float[np.ndarray, "b *shape"], Float[np.ndarray, "b t"] | None]
EVERYTHING = slice(None)
TOGETHER = 2**16  # tokens: enough for an encoder to fill its batches
SEQUENCES, TOKENS = 16, 4096  # of a batch, where no number is asked for


def split_rows(count: int, held_out: float, seed: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"]]:
    """Numbers of the training and of the held-out sequences: a random share, the same for the same seed.

    Raises InputError where one of the two would be empty.
    """
    held = round(count * held_out)
    if not 1 <= held < count:
        raise InputError(f"held_out: {held_out} of {count} sequences leaves no sequence on one side")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def default_size(examples: str, lengths: Int[np.ndarray, "n"], devices: int) -> int:
    """Examples of a batch by default: 16 sequences or 4,096 tokens, halved until there are as many.

    Rounded to a multiple of the `devices` that share it, at least one each.
    """
    count, size = (len(lengths), SEQUENCES) if examples == "sequences" else (int(lengths.sum()), TOKENS)
    while size > max(count, 1):
        size //= 2
    return max(size // devices, 1) * devices


def shuffled(count: int, start: int, size: int, seed: int, stream: int = 0) -> Int[np.ndarray, "size"]:
    """Entries start … start + size of an endless stream that runs through 0 … count − 1 in a new order every epoch.

    The order is Grain's index shuffle, a permutation computed entry by entry: nothing is held, any place is reached at
    once, and examples far apart meet in one batch.
    """
    from grain.experimental import index_shuffle

    seeds: dict[int, int] = {}
    out = np.empty(size, np.int64)
    for place, position in enumerate(range(start, start + size)):
        epoch, index = divmod(position, count)
        if epoch not in seeds:
            seeds[epoch] = int(np.random.SeedSequence([seed, stream, epoch]).generate_state(1)[0])
        out[place] = index_shuffle(index, max_index=count - 1, seed=seeds[epoch], rounds=4)
    return out


class TokenBatches:
    """Batches (size, features) of single tokens from all sequences of `rows`, in memory; no weights.

    `order` says what decides, beside the seed, which tokens stand in a batch.
    """

    order = "all tokens"

    def __init__(self, activations: Activations, rows: Int[np.ndarray, "n"], size: int, dtype: Any):
        self.activations, self.rows, self.size, self.dtype = activations, rows, size, dtype
        self.lengths = activations.lengths[rows]
        self.count = int(self.lengths.sum())

    def training(self, steps: int, seed: int, part: slice = EVERYTHING) -> Any:
        """A Grain data set of `steps` shuffled batches, or of one part of each; nothing else is read.

        Every epoch is a new permutation of all tokens. Raises InputError for a stream shorter than one batch.
        """
        import grain

        self.refuse_short()
        held = self.activations
        if not isinstance(held, HeldActivations):
            raise TypeError("tokens that are not in memory are for MixedTokenBatches")
        ends = np.cumsum(self.lengths)
        places = np.repeat(held.starts[self.rows] - (ends - self.lengths), self.lengths) + np.arange(self.count)

        @functools.lru_cache(maxsize=2)
        def epoch(number: int) -> Int[np.ndarray, "count"]:
            return np.random.default_rng([seed, number]).permutation(self.count)

        def batch(step: int) -> Batch:
            first, stop, _ = part.indices(self.size)
            epochs, at = np.divmod(np.arange(step * self.size + first, step * self.size + stop), self.count)
            chosen = np.concatenate([epoch(number)[at[epochs == number]] for number in np.unique(epochs).tolist()])
            tokens = held.tokens[places[chosen]].astype(self.dtype, copy=False)
            check_finite(tokens, self.rows[np.searchsorted(ends, chosen, "right")])
            return tokens, None

        return grain.MapDataset.range(steps).map(batch)

    def refuse_short(self) -> None:
        """InputError for a stream shorter than one batch."""
        if self.count < self.size:
            raise InputError(f"batch: {self.size} tokens, but the stream holds only {self.count}")

    def once(self) -> Iterator[Batch]:
        """Every token once, in order; the last batch may be smaller."""
        waiting = np.empty((0, self.activations.features), self.dtype)
        cuts = np.flatnonzero(np.diff(np.cumsum(self.lengths) // TOGETHER)) + 1
        for chosen in np.split(np.arange(len(self.rows)), cuts):
            tokens = np.concatenate(self.activations.read(self.rows[chosen].tolist())).astype(self.dtype, copy=False)
            check_finite(tokens, np.repeat(self.rows[chosen], self.lengths[chosen]))
            waiting = np.concatenate([waiting, tokens])
            full = len(waiting) // self.size * self.size
            for start in range(0, full, self.size):
                yield waiting[start : start + self.size], None
            waiting = waiting[full:]
        if len(waiting):
            yield waiting, None


class SequenceBatches:
    """Batches (size, tokens, features) of whole sequences with weights (size, tokens), 0 on padding.

    Sequences of similar length share a batch, in at most `max_shapes` shapes; buckets too small for a batch are merged
    with the next longer one. Batches of the buckets alternate in proportion to their sequences.
    """

    order = "all sequences"

    def __init__(self, activations: Activations, rows: Int[np.ndarray, "n"], size: int, dtype: Any, max_shapes: int):
        self._activations, self._size, self._dtype = activations, size, dtype
        lengths = activations.lengths[rows]
        self._count = len(rows)
        self._buckets: list[tuple[int, np.ndarray]] = []
        waiting = np.empty(0, rows.dtype)
        edges = bucket_edges(lengths, max_shapes)
        for below, edge in zip([0, *edges], edges):
            waiting = np.concatenate([waiting, rows[(lengths > below) & (lengths <= edge)]])
            if len(waiting) >= size:
                self._buckets.append((edge, waiting))
                waiting = waiting[:0]
        if len(waiting):  # the longest are fewer than a batch: the bucket before, if there is one, takes them in
            last = self._buckets.pop()[1] if self._buckets else waiting[:0]
            self._buckets.append((edges[-1], np.concatenate([last, waiting])))

    def training(self, steps: int, seed: int, part: slice = EVERYTHING) -> Any:
        """A Grain data set of `steps` shuffled batches, or of one part of each; nothing else is read.

        Raises InputError for a stream shorter than one batch.
        """
        import grain

        if self._count < self._size:
            raise InputError(f"batch: {self._size} sequences, but the stream holds only {self._count}")

        def data_set(stream: int, edge: int, rows: np.ndarray) -> Any:
            def batch(step: int) -> Batch:
                first, stop, _ = part.indices(self._size)
                chosen = shuffled(len(rows), step * self._size + first, stop - first, seed, stream)
                return self._gather(rows[chosen], edge)

            return grain.MapDataset.range(steps).map(batch)

        sets = [data_set(stream, *bucket) for stream, bucket in enumerate(self._buckets)]
        return grain.MapDataset.mix(sets, [len(rows) for _, rows in self._buckets])[:steps]

    def once(self) -> Iterator[Batch]:
        """Every sequence once, shortest buckets first; the last batch of a bucket may be smaller."""
        for edge, rows in self._buckets:
            for start in range(0, len(rows), self._size):
                yield self._gather(rows[start : start + self._size], edge)

    def _gather(self, rows: Int[np.ndarray, "b"], edge: int) -> Batch:
        x = np.zeros((len(rows), edge, self._activations.features), self._dtype)
        weights = np.zeros((len(rows), edge), np.float32)
        for place, tokens in enumerate(self._activations.read(rows.tolist())):
            x[place, : len(tokens)] = tokens
            weights[place, : len(tokens)] = 1
        check_finite(x, rows)
        return x, weights


def iterate(data_set: Any) -> Any:
    """A Grain iterator that prepares the next few batches in the background; it takes and gives its state."""
    import grain

    return iter(data_set.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


class SharedStream:
    """Readers of one data set, each with a place of its own; those at the same place get one batch, made once.

    A reader's state is that of `iterate`'s iterator at its place, so it may go on alone from there.
    """

    def __init__(self, data_set: Any):
        self._iterator = iterate(data_set)
        self._start = self._iterator.get_state()
        self._place: Any = None  # of the batch that was made last
        self._batch: Any = None

    def reader(self) -> "StreamReader":
        """A new reader, at the beginning."""
        return StreamReader(self, self._start)

    def read(self, place: Any) -> tuple[Batch, Any]:
        """The batch at a place, and the place after it."""
        if place != self._place:
            if place != self._iterator.get_state():
                self._iterator.set_state(place)
            self._batch = next(self._iterator)
            self._place = place
        return self._batch, self._iterator.get_state()


class StreamReader:
    """One reader of a `SharedStream`, with the methods of `iterate`'s iterator."""

    def __init__(self, stream: SharedStream, place: Any):
        self._stream, self._place = stream, place

    def __next__(self) -> Batch:
        batch, self._place = self._stream.read(self._place)
        return batch

    def get_state(self) -> Any:
        """Where it is."""
        return self._place

    def set_state(self, place: Any) -> None:
        """Go on at a place that `get_state` gave."""
        self._place = place


def check_finite(x: Float[np.ndarray, "b *t d"], rows: Int[np.ndarray, "b"]) -> None:
    """InputError that names the sequence, of `rows`, of the first entry with a value that is not finite."""
    finite = np.isfinite(np.asarray(x, np.float32)).reshape(len(x), -1).all(1)
    if not finite.all():
        raise InputError(f"activations: NaN or infinite values in sequence {rows[np.argmin(finite)]}")


class _Epoch(NamedTuple):
    """Sequences in the order of one epoch, and the tokens up to the end of every block of them."""

    order: Int[np.ndarray, "n"]
    ends: Int[np.ndarray, "blocks"]


class MixedTokenBatches(TokenBatches):
    """Batches (size, features) of single tokens from all sequences of `rows`, about `mix_tokens` of them at a time.

    Row r of a batch belongs to lane ⌊r·lanes/size⌋, so what a batch holds depends on the step alone, and a process that
    gets some rows of it reads only the sequences of their lanes. Every lane runs through its own part of each epoch:
    no token is lost or occurs twice in it. There are at most `most_lanes`, as many as divide a batch: more can be
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

    def _get(self, keys: list[int]) -> list[Float[np.ndarray, "_ d"]]:
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
