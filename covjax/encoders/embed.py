"""Sequences of many lengths through an encoder in few compiled shapes and little padding."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder, pad_rows
from covjax.encoders.rows import plan_rows
from covjax.errors import InputError
from covjax.overlap import overlap

# (row numbers, {layer: activations (b, t, d)}, mask to pool (b, t)); b may be more than there are row numbers.
Batch = tuple[Int[np.ndarray, "rows"], dict[int, Float[Array, "b t d"]], Bool[np.ndarray, "b t"]]


def embed(
    encoder: Encoder,
    sequences: Sequence[str],
    layers: tuple[int, ...],
    token_budget: int = 16384,
    max_shapes: int = 4,
    edges: Sequence[int] | None = None,
    max_segments: int = 1,
    mesh: Mesh | None = None,
) -> Iterator[Batch]:
    """Yield (row numbers, {layer: activations}, mask to pool) batch by batch, shortest sequences first.

    Every batch of a bucket has the same shape: b = token_budget // t sequences, at least one. The last batch of a
    bucket is filled with copies of its first sequence under an all-zero pool mask: `rows` is then shorter than b.
    Nothing is cropped; the longest sequence sets the last bucket. `edges`, ascending token numbers, sets the buckets,
    which keeps the shapes the same over several calls.

    With `max_segments` > 1 an encoder that can (`packs`) gets up to so many sequences in a row of the batch; such a
    batch is yielded once for every place in the row, the same activations under the mask of other sequences.

    With a `mesh` of one axis b is rounded up to a multiple of its devices and the batch is split over them.

    Raises InputError for no sequences or one longer than the last of `edges`, and whatever `encoder.encode` raises.
    """
    encoded = [encoder.encode(sequence) for sequence in sequences]
    return embed_tokens(encoder, encoded, None, layers, token_budget, max_shapes, edges, max_segments, mesh)


def embed_tokens(
    encoder: Encoder,
    encoded: Sequence[Int[np.ndarray, "t"]],
    cores: Sequence[Bool[np.ndarray, "t"]] | None,
    layers: tuple[int, ...],
    token_budget: int = 16384,
    max_shapes: int = 4,
    edges: Sequence[int] | None = None,
    max_segments: int = 1,
    mesh: Mesh | None = None,
) -> Iterator[Batch]:
    """As `embed`, of token ids that `encoder.encode` or `windows` gave; only tokens in `cores` are pooled."""
    if not len(encoded):
        raise InputError("sequences: empty; at least one is needed")
    lengths = np.array([len(ids) for ids in encoded])
    edges = bucket_edges(lengths, max_shapes) if edges is None else edges
    packs = max_segments > 1 and getattr(encoder, "packs", False)
    plan = plan_rows(lengths, edges, max_segments if packs else 1)
    inputs = padded_batches(encoder, encoded, cores, plan, token_budget, mesh, packs)
    for (batch, _, mask, pool), found in _applied(encoder, inputs, layers, mesh):
        if not packs:
            yield np.array([row[0] for row in batch]), found, pool
            continue
        for place in range(len(batch[0])):  # rows of more sequences come first in a batch
            rows = np.array([row[place] for row in batch if len(row) > place])
            yield rows, found, pool & (mask == place + 1)


# Sequences of every row, token ids (b, t), the mask that the encoder sees (b, t), the mask to pool (b, t).
Input = tuple[list[list[int]], Int[np.ndarray, "b t"], np.ndarray, Bool[np.ndarray, "b t"]]


def padded_batches(
    encoder: Encoder,
    encoded: Sequence[Int[np.ndarray, "t"]],
    cores: Sequence[Bool[np.ndarray, "t"]] | None,
    plan: Mapping[int, list[list[int]]],
    token_budget: int,
    mesh: Mesh | None = None,
    packs: bool = False,
) -> Iterator[Input]:
    """The batches of a plan of `plan_rows`, as they go into the encoder; see `embed_tokens`."""
    cores = [np.ones(len(ids), bool) for ids in encoded] if cores is None else cores
    for edge, planned in plan.items():
        size = batch_size(token_budget, int(edge), mesh)
        for first in range(0, len(planned), size):
            batch = planned[first : first + size]
            full = batch + batch[:1] * (size - len(batch))
            tokens, mask, pool = encoder.pad([np.concatenate([encoded[i] for i in row]) for row in full], int(edge))
            core, _ = pad_rows([np.concatenate([cores[i] for i in row]) for row in full], pool.shape[1], 0)
            pool = pool & (core > 0)
            pool[len(batch) :] = False
            if packs:
                counts = [np.repeat(np.arange(1, len(row) + 1), [len(encoded[i]) for i in row]) for row in full]
                mask = pad_rows(counts, tokens.shape[1], 0)[0]
            yield batch, tokens, mask, pool


def _applied(
    encoder: Encoder, inputs: Iterator[Input], layers: tuple[int, ...], mesh: Mesh | None
) -> Iterator[tuple[Input, dict[int, Float[Array, "b t d"]]]]:
    """Every input with its activations, in order."""

    def run(each: Input) -> dict[int, Float[Array, "b t d"]]:
        return encoder.apply(_split(mesh, each[1]), _split(mesh, each[2]), layers)

    return overlap(run, inputs, lambda each: each[1].shape, mesh)


def batch_size(token_budget: int, edge: int, mesh: Mesh | None) -> int:
    """Rows of one batch: what the budget allows, at least one a device, the same number on every device."""
    devices = 1 if mesh is None else mesh.size
    return -(-max(1, token_budget // edge) // devices) * devices


def _split(mesh: Mesh | None, array: np.ndarray) -> Any:
    return array if mesh is None else jax.device_put(array, _sharding(mesh, *mesh.axis_names))


def replicate(encoder: Encoder, mesh: Mesh) -> None:
    """Place a Flax encoder's parameters on every device of the mesh, once instead of at every batch."""
    if isinstance(encoder, nnx.Module):
        nnx.update(encoder, jax.device_put(nnx.state(encoder), _sharding(mesh)))


def _sharding(mesh: Mesh, *axes: str) -> NamedSharding:
    # The mesh's axes may be Explicit (`jax.make_mesh`'s default), for which the encoders would have to spell out the
    # sharding of every operation; the same devices with Auto axes leave that to XLA.
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec(*axes))


def bucket_edges(lengths: Int[np.ndarray, "n"], max_shapes: int) -> list[int]:
    """Upper edges of at most `max_shapes` length buckets with the fewest padded tokens in total (exact, by DP)."""
    edges, counts = np.unique(lengths, return_counts=True)
    if len(edges) > 512:  # a coarser grid keeps the quadratic search below a second; edges stay real lengths
        edges = np.unique(edges[np.linspace(0, len(edges) - 1, 512).round().astype(int)])
        counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
    below = np.concatenate([[0], np.cumsum(counts)])
    cost = np.full(len(edges) + 1, np.inf)
    cost[0] = 0
    choices = []
    for _ in range(min(max_shapes, len(edges))):
        # candidate[i, j]: buckets so far cover the first i edges, the next one edges i … j−1 at length edges[j−1]
        candidate = cost[:, None] + (below[None, :] - below[:, None]) * np.concatenate([[0], edges])[None, :]
        candidate[np.arange(len(cost))[:, None] > np.arange(len(cost))[None, :]] = np.inf
        choices.append(candidate.argmin(0))
        cost = candidate.min(0)
    end, picked = len(edges), []
    for choice in reversed(choices):
        if end > choice[end]:
            picked.append(int(edges[end - 1]))
        end = int(choice[end])
    return picked[::-1]
