"""Token activations of a data set: encoded once and held in memory where they fit, walked over in padded batches."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from covjax.data import Dataset
from covjax.distributed import agree, gather, is_first, share
from covjax.encoders import Encoder, embed, tokenize
from covjax.encoders.embed import batch_size, bucket_edges, replicate
from covjax.encoders.rows import plan_rows
from covjax.errors import InputError
from covjax.moments import Moments, merge, moments
from covjax.notes import progress
from covjax.standardise import live_deviation

MANY = 100_000_000  # numbers
Fit = tuple[np.ndarray, np.ndarray]  # mean and deviation of every feature over the training tokens


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences of about one length; arrays may have more rows than there are row numbers (see `embed`)."""

    rows: Int[np.ndarray, "r"]
    tokens: Float[np.ndarray, "b t d"]
    weights: Float[np.ndarray, "b t"]  # 1 on the sequence's own tokens, 0 on special ones and padding
    cls: Float[np.ndarray, "b d"] | None  # the special token before the sequence, where the model has one


class TokenSet:
    """The tokens of every sequence at one layer.

    They are kept where `tokens x features x 4 bytes` is at most `max_gib`; otherwise every walk runs the encoder again,
    which costs time instead of memory. With a `mesh` of one axis, of this process's devices, batches divide over them,
    and the encoder runs on all of them.

    In a job of several processes every one encodes and walks over its own sequences, every `process_count`-th by
    length; `collect` brings the kept tokens of all to all.
    """

    def __init__(
        self,
        encoder: Encoder,
        data: Dataset,
        layer: int,
        token_budget: int,
        max_gib: float,
        mesh: Mesh | None = None,
    ):
        self.mesh = mesh
        if mesh is not None:
            replicate(encoder, mesh)
        self.encoder, self.data, self.layer, self.token_budget = encoder, data, layer, token_budget
        self.features = encoder.features(layer)
        self.has_cls = has_cls(encoder, data.sequences, layer)
        self.gib = sum(map(len, data.sequences)) * self.features * 4 / 2**30
        self.fits = self.gib <= max_gib
        order = np.argsort([len(sequence) for sequence in data.sequences], kind="stable")
        self.own = np.sort(order[list(share(len(data)))])
        self._kept: list[np.ndarray] = []
        self._cls = np.zeros((len(data), self.features), np.float32)

    def walk(self, stage: str) -> Iterator[Batch]:
        """This process's sequences once, with a progress bar; order and shapes are the same in every walk."""
        if self.fits and not self._kept:
            kept = [np.zeros((0, self.features), np.float32)] * len(self.data)
            for batch in _progress("encode", self._encode(max_segments=2), len(self.own)):
                for place, row in enumerate(batch.rows):
                    kept[row] = batch.tokens[place][batch.weights[place] > 0]
                if batch.cls is not None:
                    self._cls[batch.rows] = batch.cls[: len(batch.rows)]
            self._kept = kept
        yield from _progress(stage, self._padded() if self.fits else self._encode(max_segments=1), len(self.own))

    def collect(self) -> None:
        """Bring the kept tokens of all processes to all; they must call it together, after a first walk."""
        if jax.process_count() == 1:
            return
        lengths = gather(np.array([len(self._kept[row]) for row in self.own], np.int64))
        own = [np.zeros((0, self.features), np.float32), *(self._kept[row] for row in self.own)]
        parts = np.split(gather(np.concatenate(own)), np.cumsum(lengths)[:-1])
        for row, part in zip(gather(self.own), parts):
            self._kept[row] = part

    def kept(self, rows: Int[np.ndarray, "n"]) -> list[Float[np.ndarray, "tokens features"]]:
        """Tokens of chosen sequences; needs kept tokens."""
        return [self._kept[row] for row in rows]

    def sample(self, rows: Int[np.ndarray, "b"], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (b, length, features) and weights (b, length) of chosen sequences; needs kept tokens."""
        chosen = [self._kept[row] for row in rows]
        weights = (np.arange(length) < np.array([len(x) for x in chosen])[:, None]).astype(np.float32)
        return np.stack([np.pad(x, ((0, length - len(x)), (0, 0))) for x in chosen]), weights

    def mixed(self, rows: Int[np.ndarray, "n"], token_budget: int) -> Iterator[Batch]:
        """Chosen rows once, in at most 2 shapes, for training: drawn into batches, always the same ones; kept tokens.

        Sequences of about one length share a batch; which ones, and the order of the batches, is random.
        """
        random = np.random.default_rng(0)
        edges = bucket_edges(np.array([len(x) for x in self._kept]), 2)  # of all: every choice has the same shapes
        bucket = np.searchsorted(edges, [len(self._kept[row]) for row in rows])
        batches = []
        for number, edge in enumerate(edges):
            order = random.permutation(rows[bucket == number])
            size = max(1, token_budget // edge)
            batches += [(order[first : first + size], size, edge) for first in range(0, len(order), size)]
        for place in random.permutation(len(batches)):
            chosen, size, edge = batches[place]
            tokens, weights = self.sample(np.resize(chosen, size), edge)
            weights[len(chosen) :] = 0
            yield Batch(chosen, tokens, weights, None)

    def median_tokens(self) -> float:
        """Median over all sequences of the tokens that are pooled: special ones do not count."""
        return float(np.median([tokenize(self.encoder, [each])[2].sum() for each in self.data.sequences]))

    def require_kept(self, why: str) -> None:
        """Raise InputError where the tokens are not in memory."""
        if not self.fits:
            raise InputError(f"max_memory_gib: {why} needs the tokens in memory, about {self.gib:.2g} GiB")

    def _encode(self, max_segments: int) -> Iterator[Batch]:
        if not len(self.own):
            return
        batches = embed(
            self.encoder,
            [self.data.sequences[row] for row in self.own],
            (self.layer,),
            token_budget=self.token_budget,
            max_segments=max_segments,
            mesh=self.mesh,
        )
        for rows, layers, pool in batches:
            tokens = np.asarray(layers[self.layer], np.float32)
            before = np.maximum(np.argmax(pool, axis=1) - 1, 0)
            cls = tokens[np.arange(len(tokens)), before] if self.has_cls else None
            yield Batch(self.own[np.asarray(rows)], tokens, np.asarray(pool, np.float32), cls)

    def _padded(self) -> Iterator[Batch]:
        if not len(self.own):
            return
        lengths = np.array([len(self._kept[row]) for row in self.own])
        # Every shape is compiled, every padded token computed: more shapes pay where the activations are many.
        shapes = 4 if lengths.sum() * self.features > MANY else 2
        for edge, planned in plan_rows(lengths, bucket_edges(lengths, shapes), 1).items():
            order = self.own[[row[0] for row in planned]]
            size = batch_size(self.token_budget, edge, self.mesh)
            for first in range(0, len(order), size):
                rows = order[first : first + size]
                full = np.resize(rows, size)
                tokens, weights = self.sample(full, edge)
                weights[len(rows) :] = 0
                yield Batch(rows, tokens, weights, self._cls[full] if self.has_cls else None)


def has_cls(encoder: Encoder, sequences: Sequence[str], layer: int) -> bool:
    """Whether a special token stands before the sequence and has seen it; the start of a recurrence has not."""
    other = next((sequence for sequence in sequences if sequence != sequences[0]), sequences[0])
    tokens, mask, pool = tokenize(encoder, [sequences[0], other])
    if not mask[0, 0] or pool[0, 0]:
        return False
    first = np.asarray(encoder.apply(tokens, mask, (layer,))[layer], np.float32)[:, 0]
    return not np.array_equal(first[0], first[1])


def _progress(stage: str, batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    with progress(total=total, desc=f"{stage:>12}", unit="seq", disable=not is_first()) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.rows))


@jax.jit
def _batch_moments(total: Moments, x: Float[Array, "b t d"], w: Float[Array, "b t"]) -> Moments:
    each = jax.vmap(moments)(x, w)
    return jax.lax.scan(lambda a, b: (merge(a, b), None), total, each)[0]


def standardiser(tokens: TokenSet, train: np.ndarray) -> Fit:
    """Mean and deviation of every feature over all tokens of the training rows; a dead feature gets 1.

    Of all processes' rows, the same in all of them, which must call it together.
    """
    total = Moments.zeros(tokens.features)
    for batch in tokens.walk("standardise"):
        total = _batch_moments(total, jnp.asarray(batch.tokens), jnp.asarray(train_weights(batch, train)))
    parts = jax.tree.map(lambda leaf: gather(np.asarray(leaf)[None]), total)
    every = [jax.tree.map(lambda leaf, i=i: leaf[i], parts) for i in range(jax.process_count())]
    total = functools.reduce(merge, every)
    std = np.sqrt(np.diag(np.asarray(total.covariance(), np.float64)))
    return agree((np.asarray(total.mean, np.float32), live_deviation(std).astype(np.float32)))


def train_weights(batch: Batch, train: np.ndarray) -> Float[np.ndarray, "b t"]:
    """The batch's weights with every sequence that is not a training row at 0."""
    keep = np.zeros((len(batch.tokens), 1), np.float32)
    keep[: len(batch.rows), 0] = np.isin(batch.rows, train)
    return batch.weights * keep
