"""Batches of training examples, shuffled by index with Grain: the position in the stream is the only state."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax.data.activations import Activations, HeldActivations
from covjax.encoders.embed import bucket_edges
from covjax.errors import InputError

Batch = tuple[Float[np.ndarray, "b *shape"], Float[np.ndarray, "b t"] | None]
EVERYTHING = slice(None)
TOGETHER = 2**16  # tokens: enough for an encoder to fill its batches


def split_rows(count: int, held_out: float, seed: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"]]:
    """Numbers of the training and of the held-out sequences: a random share, the same for the same seed.

    Raises InputError where one of the two would be empty.
    """
    held = round(count * held_out)
    if not 1 <= held < count:
        raise InputError(f"held_out: {held_out} of {count} sequences leaves no sequence on one side")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


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


def check_finite(x: Float[np.ndarray, "b *t d"], rows: Int[np.ndarray, "b"]) -> None:
    """InputError that names the sequence, of `rows`, of the first entry with a value that is not finite."""
    finite = np.isfinite(np.asarray(x, np.float32)).reshape(len(x), -1).all(1)
    if not finite.all():
        raise InputError(f"activations: NaN or infinite values in sequence {rows[np.argmin(finite)]}")
