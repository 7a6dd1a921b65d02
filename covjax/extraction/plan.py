"""What an extraction does before it encodes: sequences are cut into windows and dealt into shards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from covjax.encoders import Encoder
from covjax.encoders.embed import bucket_edges
from covjax.encoders.rows import plan_rows
from covjax.encoders.windows import Window, windows
from covjax.errors import InputError
from covjax.extraction.config import ExtractConfig
from covjax.extraction.windows import WindowMoments
from covjax.pooling import Pooler


class Plan(NamedTuple):
    """Which sequences are in which shard, the bucket edges of all, how rows are filled."""

    shards: list[np.ndarray]
    edges: list[int]
    max_segments: int


class Work(NamedTuple):
    """What every shard needs."""

    config: ExtractConfig
    ids: Sequence[str]
    cuts: list[list[Window]]
    encoder: Encoder
    pool: Callable
    pool_one: Callable  # of one sequence, on one device
    passing: WindowMoments | None  # in its place where moments are all that the poolers need
    mesh: Mesh | None
    plan: Plan
    run: dict[str, Any]

    def rows(self, shard: int) -> dict[int, list[list[int]]]:
        """The batches' rows of one shard by length."""
        lengths = np.array([len(w.tokens) for i in self.plan.shards[shard] for w in self.cuts[i]])
        return plan_rows(lengths, self.plan.edges, self.plan.max_segments)

    def passing_of(self, shard: int) -> WindowMoments | None:
        """What pools a shard's sequences from moments; None for a shard of whole ones."""
        return self.passing if len(self.cuts[self.plan.shards[shard][0]]) > 1 else None


def cut_sequences(
    config: ExtractConfig, encoder: Encoder, ids: Sequence[str], sequences: Sequence[str]
) -> list[list[Window]]:
    """Windows of every sequence, one that is all of it where nothing is cut; InputError names the sequence."""
    cuts = []
    for name, sequence in zip(ids, sequences):
        try:
            if config.window:
                cuts.append(windows(encoder, sequence, config.window, config.halo))
            else:
                tokens = encoder.encode(sequence)
                cuts.append([Window(tokens, np.ones(len(tokens), bool))])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return cuts


def pass_windows(
    config: ExtractConfig,
    encoder: Encoder,
    cuts: list[list[Window]],
    poolers: Mapping[str, Pooler],
    mesh: Mesh | None,
) -> WindowMoments | None:
    """What pools cut sequences from their moments; None where none is cut, or tokens are kept or needed."""
    if config.keep_tokens or all(len(cut) == 1 for cut in cuts):
        return None
    return WindowMoments.for_poolers(poolers, {layer: encoder.features(layer) for layer in config.layers}, mesh)


def make_plan(config: ExtractConfig, encoder: Encoder, cuts: list[list[Window]], passing: WindowMoments | None) -> Plan:
    """Sequences sorted by length, in shards whose sequences are all cut or all whole where windows pass by."""
    lengths = np.array([sum(len(w.tokens) for w in cut) for cut in cuts])
    order = np.argsort(lengths, kind="stable")
    # Packing wants all lengths in a shard, buckets want one.
    packs = config.pack > 1 and getattr(encoder, "packs", False)

    def deal(order: np.ndarray, size: int) -> list[np.ndarray]:
        count = -(-len(order) // size)
        return [order[i::count] if packs else order[i * size :][:size] for i in range(count)]

    if passing is None:
        shards = deal(order, config.shard_size)
    else:
        cut = np.array([len(cuts[i]) > 1 for i in order])
        shards = deal(order[~cut], config.shard_size) + deal(order[cut], min(config.shard_size, passing.most_open))
    edges = bucket_edges(np.array([len(w.tokens) for cut in cuts for w in cut]), config.max_shapes)
    return Plan(shards, edges, config.pack if packs else 1)
