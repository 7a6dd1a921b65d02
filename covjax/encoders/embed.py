"""Embed sequences in batches of similar length, whole or in overlapping windows."""

import bisect
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from threadpoolctl import ThreadpoolController

from covjax.encoders.base import Encoder, pad_rows
from covjax.errors import InputError
from covjax.moments import Moments, merge, moments


def plan_rows(lengths: Int[np.ndarray, "n"], edges: Sequence[int], max_segments: int) -> dict[int, list[list[int]]]:
    """{row length: rows}, each row the numbers of its sequences: best fit, longest sequence first (Johnson 1974).

    A row is as long as the smallest of `edges`, ascending, that holds its longest sequence; shorter sequences fill it
    up, at most `max_segments` in all. Rows of more sequences come first.
    Raises InputError for max_segments < 1 and a sequence longer than the last of `edges`.
    """
    if max_segments < 1:
        raise InputError(f"max_segments: {max_segments} must be >= 1")
    if lengths.max() > edges[-1]:
        raise InputError(
            f"edges: the last is {edges[-1]}, shorter than the longest sequence with {lengths.max()} tokens"
        )
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending, of rows that take more sequences
    row_edges = []
    for number in np.argsort(-lengths, kind="stable"):
        length = int(lengths[number])
        place = bisect.bisect_left(room, (length, -1))
        if place < len(room):
            free, row = room.pop(place)
        else:
            free, row = edges[bisect.bisect_left(edges, length)], len(rows)
            row_edges.append(free)
            rows.append([])
        rows[row].append(int(number))
        if len(rows[row]) < max_segments:
            bisect.insort(room, (free - length, row))
    return {
        edge: sorted((row for row, e in zip(rows, row_edges) if e == edge), key=len, reverse=True)
        for edge in sorted(set(row_edges))
    }


# (row numbers, {layer: activations (b, t, d)}, mask to pool (b, t)); b may be more than there are row numbers.
Batch = tuple[Int[np.ndarray, "rows"], dict[int, Float[Array, "b t _"]], Bool[np.ndarray, "b t"]]


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
    """Yield (row numbers, {layer: activations}, mask for the pool) batch by batch, shortest sequences first.

    Every batch of a bucket has the same shape: b = token_budget // t sequences, at least one. The last batch of a
    bucket is filled with copies of its first sequence under an all-zero pool mask: `rows` is then shorter than b.
    Nothing is cropped; the longest sequence sets the last bucket. `edges`, ascending token numbers, sets the buckets,
    which keeps the shapes the same over several calls.

    If `max_segments` > 1 and the encoder supports it (`packs`), up to that many sequences share a row of the batch.
    Such a batch is yielded once for every place in the row: with the same activations, but the masks of other
    sequences.

    With a `mesh` of one axis, b is rounded up to a multiple of its devices and the batch is split over them.

    Raises InputError for no sequences or one longer than the last of `edges`, and whatever `encoder.encode` raises.
    """
    encoded = [encoder.encode(sequence) for sequence in sequences]
    return embed_tokens(encoder, encoded, None, layers, token_budget, max_shapes, edges, max_segments, mesh)


def embed_tokens(
    encoder: Encoder,
    encoded: Sequence[Int[np.ndarray, "_"]],
    cores: Sequence[Bool[np.ndarray, "_"]] | None,
    layers: tuple[int, ...],
    token_budget: int = 16384,
    max_shapes: int = 4,
    edges: Sequence[int] | None = None,
    max_segments: int = 1,
    mesh: Mesh | None = None,
) -> Iterator[Batch]:
    """Like `embed`, for token ids from `encoder.encode` or `windows`; only tokens in `cores` are pooled."""
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
    encoded: Sequence[Int[np.ndarray, "_"]],
    cores: Sequence[Bool[np.ndarray, "_"]] | None,
    plan: Mapping[int, list[list[int]]],
    token_budget: int,
    mesh: Mesh | None = None,
    packs: bool = False,
) -> Iterator[Input]:
    """The batches of a plan of `plan_rows`, ready for the encoder; see `embed_tokens`."""
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
) -> Iterator[tuple[Input, dict[int, Float[Array, "b t _"]]]]:
    """Every input with its activations, in order."""

    def run(each: Input) -> dict[int, Float[Array, "b t _"]]:
        return encoder.apply(_split(mesh, each[1]), _split(mesh, each[2]), layers)

    return overlap(run, inputs, lambda each: each[1].shape, mesh)


def batch_size(token_budget: int, edge: int, mesh: Mesh | None) -> int:
    """Rows of one batch: as many as the budget allows, at least one per device, the same number on every device."""
    devices = 1 if mesh is None else mesh.size
    return -(-max(1, token_budget // edge) // devices) * devices


def _split(mesh: Mesh | None, array: np.ndarray) -> Any:
    return array if mesh is None else jax.device_put(array, _sharding(mesh, *mesh.axis_names))


def replicate(encoder: Encoder, mesh: Mesh) -> None:
    """Place a Flax encoder's parameters on every device of the mesh, once instead of at every batch."""
    if isinstance(encoder, nnx.Module):
        nnx.update(encoder, jax.device_put(nnx.state(encoder), _sharding(mesh)))


def parameter_bytes(encoder: Encoder) -> int:
    """Memory of a Flax encoder's parameters; 0 for an encoder of another kind, which does not say."""
    if not isinstance(encoder, nnx.Module):
        return 0
    return sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(nnx.state(encoder)))


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


class Window(NamedTuple):
    """Token ids that the model sees together, special tokens included, and which belong to this window's core."""

    tokens: Int[np.ndarray, "t"]
    core: Bool[np.ndarray, "t"]


def windows(encoder: Encoder, sequence: str, window: int, halo: int) -> list[Window]:
    """Cut a sequence into windows of at most `window` tokens, special ones and halo included.

    Every token of the sequence is in the core of exactly one window; up to `halo` tokens on each side of the core are
    seen as context. Windows have equal cores up to one token (one `multiple` for a model that works on a grid), each
    between the model's special tokens. A sequence that fits is one window, all of it core.
    Raises InputError for a halo below 0, a window without room for a core or above the model's learned positions, and
    whatever `encoder.encode` raises.
    """
    before, after = getattr(encoder, "frame", (0, 0))
    grid, most = getattr(encoder, "multiple", 1), getattr(encoder, "max_tokens", None)
    room = window - before - after
    if halo < 0:
        raise InputError(f"halo: {halo} must be >= 0")
    if room - 2 * halo < 2 * grid - 1:
        raise InputError(
            f"window: {window} leaves no core beside a halo of {halo} on each side, {before + after} special tokens "
            f"and a grid of {grid}; at least {before + after + 2 * halo + 2 * grid - 1}"
        )
    if most is not None and window > most:
        raise InputError(f"window: {window} is more than the {most} positions the model has learned")
    ids = getattr(encoder, "encode_any_length", encoder.encode)(sequence)
    own = ids[before : len(ids) - after]
    if len(own) <= room:
        return [Window(ids, np.ones(len(ids), bool))]
    core = room - 2 * halo - (grid - 1)  # the context begins on the grid, at most grid − 1 tokens early
    cells, capacity = -(-len(own) // grid), core // grid
    count = -(-cells // capacity)
    starts = [cells * i // count * grid for i in range(count)] + [len(own)]
    cut = []
    for start, stop in itertools.pairwise(starts):
        begin, end = max(0, start - halo) // grid * grid, min(len(own), stop + halo)
        tokens = np.concatenate([ids[:before], own[begin:end], ids[len(ids) - after :]])
        place = np.arange(len(tokens)) - before + begin
        cut.append(Window(tokens, (place >= start) & (place < stop)))
    return cut


def windowed_moments(
    encoder: Encoder,
    sequence: str,
    layers: tuple[int, ...],
    window: int,
    halo: int,
    token_budget: int = 8192,
) -> dict[int, Moments]:
    """Moments of each layer over a sequence of any length, window by window; no more than one batch is in memory.

    The statistics are those of all tokens together (`merge` is exact). They differ from one pass over the sequence only
    in that a window does not see the context beyond its halo. Raises InputError as `windows` does, and if nothing is
    left to pool.
    """
    cut = windows(encoder, sequence, window, halo)
    found = {layer: Moments.zeros(encoder.features(layer)) for layer in layers}
    tokens, cores = [w.tokens for w in cut], [w.core for w in cut]
    for rows, states, pool in embed_tokens(encoder, tokens, cores, layers, token_budget):
        weights = jnp.asarray(np.where(np.arange(len(pool))[:, None] < len(rows), pool, False), jnp.float32)
        found = {layer: _merge_batch(found[layer], states[layer], weights) for layer in layers}
    if not all(float(m.count) > 0 for m in found.values()):
        raise InputError(f"the sequence {sequence[:20]!r} has no token to pool")
    return found


def add_windows(state: Moments, x: Float[Array, "b t d"], weights: Float[Array, "b t"]) -> Moments:
    """Merge a batch's windows into the moments one after the other; a window without weight costs nothing."""

    def add(state, window):
        x, w = window
        merged = lambda: merge(state, moments(x.astype(jnp.float32), w))  # noqa: E731
        return jax.lax.cond(jnp.any(w > 0), merged, lambda: state), None

    return jax.lax.scan(add, state, (x, weights))[0]


_merge_batch = jax.jit(add_windows)


_SHARING = threading.Lock()
_JOBS: list[tuple[int, bool]] = []  # of every `shared_threads` that has begun, its arguments
_WHOLE: dict[str, int] = {}  # threads of a library, by its file, while nobody shares it


def _share_out() -> None:
    """Give every library the threads that it has for each of the most jobs that share it."""
    for each in ThreadpoolController().select(user_api="blas").lib_controllers:
        # Of what it has, not of the cores: OMP_NUM_THREADS or the cores of a container may be fewer.
        whole = _WHOLE.setdefault(each.filepath, each.num_threads or 1)
        most = max((jobs for jobs, numpy in _JOBS if numpy or not _is_numpys(each.filepath)), default=1)
        each.set_num_threads(max(whole // most, 1))


def _is_numpys(file: str) -> bool:
    """Whether a library came with NumPy: in `numpy.libs`, or in a folder of the package."""
    folder = Path(file).parent
    return folder.name == "numpy.libs" or folder.parent.name == "numpy"


@contextlib.contextmanager
def shared_threads(jobs: int, numpy: bool = True) -> Iterator[None]:
    """Linear algebra with an even share of its threads for each of the `jobs` that run at the same time.

    OpenBLAS's threads wait for each other by spinning: with all of them in each of two jobs, both together take longer
    than one after the other. On a CPU XLA takes its eigendecompositions from SciPy's library. Without `numpy` that of
    NumPy keeps its threads, unless both are one. Contexts may begin and end in any order, in any thread.
    """
    entry = jobs, numpy
    with _SHARING:
        if not _JOBS:
            _WHOLE.clear()
        _JOBS.append(entry)
    try:
        with _SHARING:
            _share_out()
        yield
    finally:
        with _SHARING:
            _JOBS.remove(entry)
            _share_out()


Item = TypeVar("Item")
Result = TypeVar("Result")


def runs_two(mesh: Mesh | None) -> bool:
    """Whether `overlap` runs two inputs at once."""
    return mesh is None and jax.default_backend() == "cpu"


def overlap(
    run: Callable[[Item], Result],
    inputs: Iterable[Item],
    shape: Callable[[Item], Hashable],
    mesh: Mesh | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Every input with its result, in order; on a CPU two run at once, each in its own thread.

    XLA runs a loop (over attention heads, over eigendecompositions) on one core, which leaves the others idle, unless
    `run` spreads its input over the devices of a `mesh`. The first input of each `shape` is finished before another
    begins; otherwise both threads would compile it.
    """
    if not runs_two(mesh):
        for each in inputs:
            yield each, run(each)
        return

    def finished(each: Item) -> tuple[Item, Result]:
        return each, jax.block_until_ready(run(each))

    compiled = set()
    with ThreadPoolExecutor(2) as threads:
        running: deque[Future[tuple[Item, Result]]] = deque()
        for each in inputs:
            running.append(threads.submit(finished, each))
            if shape(each) not in compiled:
                compiled.add(shape(each))
                running[-1].exception()
            if len(running) == 2:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
