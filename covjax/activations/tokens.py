"""Token activations in batches, from arrays; their mean and deviation."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from covjax.encoders.embed import batch_size, bucket_edges, plan_rows
from covjax.errors import InputError
from covjax.jobs.distributed import agree, gather, is_first, share
from covjax.notes import progress
from covjax.standardise import live_deviation, merge_statistics, note_dead
from covjax.tokens import weighted_mean

MANY = 100_000_000  # numbers


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences of about one length; arrays may have more rows than there are row numbers, under weights of 0."""

    rows: Int[np.ndarray, "r"]
    tokens: Float[np.ndarray, "b t d"]  # float32, or 16 bits where they are kept so
    weights: Float[np.ndarray, "b t"]  # 1 on the sequence's own tokens, 0 on special ones and padding
    special: Float[np.ndarray, "b d"] | None  # the special token before the sequence, where the model has one


class ArrayTokens:
    """Tokens that are in memory: one float array (tokens, features) a sequence.

    With a `mesh` of one axis, of this process's devices, batches divide over them. In a job of several processes every
    one walks over its own sequences, every `process_count`-th by length; `collect` brings those of all to all.

    Raises InputError, naming the sequence by its number from 0, for no sequence, arrays that are not floating point, of
    another number of features than the first, without tokens, or with NaN or inf.
    """

    name = "given activations"
    has_special = False
    fits = True
    gib: float = 0.0
    weights_gib: float = 0.0  # of the encoder's parameters, where they are in this memory
    features: int
    token_budget: int
    mesh: Mesh | None
    lengths: np.ndarray
    own: np.ndarray  # numbers of this process's sequences
    kind = ""  # of pairs: what stands for a pair (`covjax.data.pairs.KINDS`)
    _special: np.ndarray  # of every sequence, where the model has such tokens

    def __init__(self, arrays: Sequence[Float[np.ndarray, "_ d"]], token_budget: int = 16384, mesh: Mesh | None = None):
        kept = [np.asarray(array) for array in arrays]
        if not kept:
            raise InputError("activations: no sequence; at least one array (tokens, features) is needed")
        for number, array in enumerate(kept):
            _check(number, array, kept[0].shape[-1] if kept[0].ndim == 2 else 0)
        self.features = kept[0].shape[1]
        self._kept: list[np.ndarray] = [array.astype(np.float32) for array in kept]
        self._plan([len(array) for array in kept], token_budget, mesh)

    def _plan(self, lengths: Sequence[int], token_budget: int, mesh: Mesh | None) -> None:
        self.token_budget, self.mesh, self._count = token_budget, mesh, len(lengths)
        self.lengths = np.asarray(lengths)
        order = np.argsort(lengths, kind="stable")
        self.own = np.sort(order[list(share(len(lengths)))])

    def __len__(self) -> int:
        return self._count

    def walk(self, stage: str) -> Iterator[Batch]:
        """This process's sequences once, with a progress bar; order and shapes are the same in every walk."""
        yield from with_progress(stage, self._padded(self.own), len(self.own))

    def collect(self) -> None:
        """Bring the tokens of all processes to all; they must call it together, after a first walk."""
        if jax.process_count() == 1:
            return
        lengths = gather(np.array([len(self._kept[row]) for row in self.own], np.int64))
        own = [np.zeros((0, self.features), np.float32), *(self._kept[row] for row in self.own)]
        parts = np.split(gather(np.concatenate(own)), np.cumsum(lengths)[:-1])
        for row, part in zip(gather(self.own), parts):
            self._kept[row] = part

    def kept(self, rows: Int[np.ndarray, "n"]) -> list[Float[np.ndarray, "_ features"]]:
        """Tokens of chosen sequences, in the type that `alike` gives them; they must be in memory."""
        return alike([self._kept[row] for row in rows])

    def sample(self, rows: Int[np.ndarray, "b"], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (b, length, features) and weights (b, length) of chosen sequences; they must be in memory."""
        chosen = self.kept(rows)
        weights = (np.arange(length) < np.array([len(x) for x in chosen])[:, None]).astype(np.float32)
        tokens = np.zeros((len(chosen), length, self.features), chosen[0].dtype)
        for place, x in zip(tokens, chosen):
            place[: len(x)] = x
        return tokens, weights

    def mixed(self, rows: Int[np.ndarray, "n"], token_budget: int) -> Iterator[Batch]:
        """Chosen rows once, in at most 2 shapes, for training: drawn into batches, always the same ones.

        Sequences of about one length share a batch; which ones, and the order of the batches, is random. The tokens
        must be in memory.
        """
        random = np.random.default_rng(0)
        edges = bucket_edges(self._counts(np.arange(len(self))), 2)  # of all: every choice has the same shapes
        bucket = np.searchsorted(edges, self._counts(rows))
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
        return float(np.median(self._counts(np.arange(len(self)))))

    def require_kept(self, why: str, otherwise: str = "") -> None:
        """Raise InputError where the tokens are not in memory; `otherwise` is what helps beside more memory."""
        if not self.fits:
            raise InputError(
                f"max_memory_gib: too little: {why} needs all token activations in memory, about {self.gib:.2g} GiB; "
                f"raise it (a comparison gives half of it to them){otherwise}"
            )

    def _counts(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return np.array([len(self._kept[row]) for row in rows])

    def _padded(self, rows: Int[np.ndarray, "n"]) -> Iterator[Batch]:
        if not len(rows):
            return
        lengths = self._counts(rows)
        # Every shape is compiled, every padded token computed: more shapes pay where the activations are many.
        shapes = 4 if lengths.sum() * self.features > MANY else 2
        for edge, planned in plan_rows(lengths, bucket_edges(lengths, shapes), 1).items():
            order = rows[[row[0] for row in planned]]
            size = batch_size(self.token_budget, edge, self.mesh)
            for first in range(0, len(order), size):
                own = order[first : first + size]
                full = np.resize(own, size)
                tokens, weights = self.sample(full, edge)
                weights[len(own) :] = 0
                yield Batch(own, tokens, weights, self._special[full] if self.has_special else None)


def alike(arrays: list[Float[np.ndarray, "_ d"]]) -> list[Float[np.ndarray, "_ d"]]:
    """Arrays of one type: as they are if all have the same 16-bit type, which a device makes float32, else float32."""
    types = {x.dtype for x in arrays}
    half = len(types) == 1 and all(each.itemsize == 2 and each.isnative for each in types)
    return arrays if half else [np.asarray(x, np.float32) for x in arrays]


def _check(number: int, array: np.ndarray, features: int) -> None:
    if array.ndim != 2 or 0 in array.shape or array.shape[1] != features:
        wanted = f"(tokens >= 1, {features})" if features else "(tokens >= 1, features >= 1)"
        raise InputError(f"activations: sequence {number} has shape {array.shape}, expected {wanted}")
    if array.dtype.kind not in "f" and array.dtype.name != "bfloat16":
        raise InputError(f"activations: sequence {number} is {array.dtype}, expected floating point; use .astype")
    if bad := int((~np.isfinite(array)).sum()):
        raise InputError(f"activations: sequence {number} holds NaN or inf in {bad} of {array.size} places")
    if array.dtype.itemsize > 4 and (largest := float(np.abs(array).max())) > float(np.finfo(np.float32).max):
        raise InputError(f"activations: sequence {number} holds {largest:g}, beyond float32; divide by a constant")


def with_progress(stage: str, batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    """The batches under a progress bar of sequences, in process 0 alone."""
    with progress(total=total, desc=f"{stage:>12}", unit="seq", disable=not is_first()) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.rows))


Fit = tuple[np.ndarray, np.ndarray]  # mean and deviation of every feature over the training tokens


@jax.jit
def _batch_statistics(x: Float[Array, "b t d"], w: Float[Array, "b t"]) -> Float[Array, "3 d"]:
    """Count, mean and squares about it of every feature over the tokens of a batch."""
    w = w.reshape(-1)
    x = jnp.where(w[:, None] > 0, x.reshape(len(w), -1).astype(jnp.float32), 0)
    mean = weighted_mean(x, w)
    return jnp.stack([jnp.full(len(mean), jnp.sum(w)), mean, jnp.sum(w[:, None] * (x - mean[None]) ** 2, axis=0)])


def standardiser(tokens: ArrayTokens, train: np.ndarray) -> Fit:
    """Mean and deviation of every feature over all tokens of the training rows; a dead feature gets 1.

    Of all processes' rows, the same in all of them, which must call it together.
    """
    total = np.zeros((3, tokens.features))
    for batch in tokens.walk("standardise"):
        own = _batch_statistics(jnp.asarray(batch.tokens), jnp.asarray(train_weights(batch, train)))
        total = merge_statistics(total, np.asarray(own, np.float64))
    count, mean, squares = functools.reduce(merge_statistics, gather(total[None]))
    std = np.sqrt(squares / count)
    if is_first():
        note_dead(std)
    return agree((mean.astype(np.float32), live_deviation(std).astype(np.float32)))


def train_weights(batch: Batch, train: np.ndarray) -> Float[np.ndarray, "b t"]:
    """The batch's weights with every sequence that is not a training row at 0."""
    keep = np.zeros((len(batch.tokens), 1), np.float32)
    keep[: len(batch.rows), 0] = np.isin(batch.rows, train)
    return batch.weights * keep
