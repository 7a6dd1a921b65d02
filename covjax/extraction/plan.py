"""What an extraction does: windows, batches and shards."""

import functools
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders import Encoder
from covjax.encoders.embed import Window, add_windows, bucket_edges, plan_rows, windows
from covjax.errors import InputError
from covjax.extraction.config import ExtractConfig
from covjax.moments import Moments, merge, psum_merge
from covjax.pooling import Pooler, moment_function

OPEN_BYTES = 2**30  # of moments whose sequence has windows to come
Layers = Mapping[int, Float[Array, "b t _"]]


class WindowMoments:
    """Moments of the sequences whose windows are passing by, and what the poolers make of them at the end.

    Windows of one sequence may come in any batch and order, in which their moments are merged (Chan, Golub, LeVeque
    1983), one window after the other: beside the batch there is one d × d matrix for each sequence under way. Windows
    of a batch that is split over devices are reduced where they are; d × d statistics travel.
    """

    def __init__(
        self, functions: Mapping[str, Callable[[Moments], Array]], widths: Mapping[int, int], mesh: Mesh | None
    ):
        self._empty = {layer: Moments.zeros(width) for layer, width in widths.items()}
        # A shard's first and last windows, which are shorter, pass before the others: all its sequences may be open.
        self.most_open = max(1, OPEN_BYTES // sum(4 * width**2 for width in widths.values()))
        self._open: dict[int, dict[int, Moments]] = {}

        def total(x, weights):
            return add_windows(Moments.zeros(x.shape[-1]), x, weights)

        def over_devices(mesh, x, weights):
            (axis,), split = mesh.axis_names, PartitionSpec(*mesh.axis_names)
            each = lambda *own: psum_merge(total(*own), axis)  # noqa: E731
            # Windows without weight are passed over by `cond`, whose branches vary over the axis in different ways.
            return jax.shard_map(each, mesh=mesh, in_specs=split, out_specs=PartitionSpec(), check_vma=False)(
                x, weights
            )

        def add(state, layers, weights):
            of_batch = total if mesh is None else functools.partial(over_devices, mesh)
            return {k: merge(state[k], of_batch(layers[k], weights)) for k in state}

        def pool(state):
            return {f"{k}/{name}": function(m) for k, m in state.items() for name, function in functions.items()}

        self._add, self._pool = jax.jit(add), jax.jit(pool)

    @classmethod
    def for_poolers(
        cls, poolers: Mapping[str, Pooler], widths: Mapping[int, int], mesh: Mesh | None
    ) -> "WindowMoments | None":
        """None where a pooler needs the tokens; `mesh` as `embed` splits its batches."""
        functions = {name: moment_function(pooler) for name, pooler in poolers.items()}
        known = {name: function for name, function in functions.items() if function is not None}
        return cls(known, widths, mesh) if len(known) == len(functions) else None

    def add(self, owner: int, layers: Layers, mask: Bool[np.ndarray, "b t"]) -> None:
        """The windows of one sequence in a batch: the mask holds its tokens alone."""
        self._open[owner] = self._add(self._open.get(owner, self._empty), layers, mask.astype(np.float32))

    def finish(self, owner: int) -> dict[str, Float[np.ndarray, "_"]]:
        """{"layer/pooler": vector} of a sequence all of whose windows were added, which is then forgotten."""
        return {name: np.asarray(vector) for name, vector in self._pool(self._open.pop(owner)).items()}


class Cuts:
    """Windows of every sequence by its number, one that is all of it where nothing is cut.

    They are made when they are asked for, so that of millions of sequences only lengths are in memory.

    lengths: tokens of every window, special ones and halo included, sequence by sequence.
    counts, totals, cores: of every sequence the number of its windows, their tokens, and those in their cores.

    Raises InputError, naming the sequence, for one that the encoder does not take.
    """

    def __init__(self, config: ExtractConfig, encoder: Encoder, ids: Sequence[str], sequences: Sequence[str]):
        self._sequences = sequences
        self._cut = functools.partial(_windows, encoder, config.window, config.halo)
        lengths, counts, cores = array("q"), array("q"), array("q")
        for name, sequence in zip(ids, sequences):
            try:
                cut = self._cut(sequence)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            lengths.extend(len(window.tokens) for window in cut)
            counts.append(len(cut))
            cores.append(sum(int(window.core.sum()) for window in cut))
        self.lengths, self.counts, self.cores = (np.array(each, np.int64) for each in (lengths, counts, cores))
        self._starts = np.cumsum(self.counts) - self.counts
        self.totals = np.add.reduceat(self.lengths, self._starts)

    def __getitem__(self, number: int) -> list[Window]:
        return self._cut(self._sequences[number])

    def lengths_of(self, numbers: Int[np.ndarray, "m"]) -> Int[np.ndarray, "windows"]:
        """Tokens of every window of these sequences, in their order."""
        return np.concatenate([self.lengths[self._starts[i] :][: self.counts[i]] for i in numbers])


def _windows(encoder: Encoder, window: int, halo: int, sequence: str) -> list[Window]:
    if window:
        return windows(encoder, sequence, window, halo)
    tokens = encoder.encode(sequence)
    return [Window(tokens, np.ones(len(tokens), bool))]


class Plan(NamedTuple):
    """Which sequences are in which shard, the bucket edges of all, how rows are filled."""

    shards: list[np.ndarray]
    edges: list[int]
    max_segments: int


class Work(NamedTuple):
    """What every shard needs."""

    config: ExtractConfig
    ids: Sequence[str]
    sequences: Sequence[str]
    cuts: Cuts
    encoder: Encoder
    pool: Callable
    pool_one: Callable  # of one sequence, on one device
    passing: WindowMoments | None  # in its place where moments are all that the poolers need
    mesh: Mesh | None
    plan: Plan
    run: dict[str, Any]

    def rows(self, shard: int) -> dict[int, list[list[int]]]:
        """The batches' rows of one shard by length."""
        return plan_rows(self.cuts.lengths_of(self.plan.shards[shard]), self.plan.edges, self.plan.max_segments)

    def passing_of(self, shard: int) -> WindowMoments | None:
        """What pools a shard's sequences from moments; None for a shard of whole ones."""
        return self.passing if self.cuts.counts[self.plan.shards[shard][0]] > 1 else None


def pass_windows(
    config: ExtractConfig,
    encoder: Encoder,
    cuts: Cuts,
    poolers: Mapping[str, Pooler],
    mesh: Mesh | None,
) -> WindowMoments | None:
    """What pools cut sequences from their moments; None where none is cut, or tokens are kept or needed."""
    if config.keep_tokens or (cuts.counts == 1).all():
        return None
    return WindowMoments.for_poolers(poolers, {layer: encoder.features(layer) for layer in config.layers}, mesh)


def make_plan(config: ExtractConfig, encoder: Encoder, cuts: Cuts, passing: WindowMoments | None) -> Plan:
    """Sequences sorted by length, in shards whose sequences are all cut or all whole where windows pass by."""
    order = np.argsort(cuts.totals, kind="stable")
    # Packing wants all lengths in a shard, buckets want one.
    packs = config.pack > 1 and getattr(encoder, "packs", False)

    def deal(order: np.ndarray, size: int) -> list[np.ndarray]:
        count = -(-len(order) // size)
        return [order[i::count] if packs else order[i * size :][:size] for i in range(count)]

    if passing is None:
        shards = deal(order, config.shard_size)
    else:
        cut = cuts.counts[order] > 1
        shards = deal(order[~cut], config.shard_size) + deal(order[cut], min(config.shard_size, passing.most_open))
    edges = bucket_edges(cuts.lengths, config.max_shapes)
    return Plan(shards, edges, config.pack if packs else 1)
