"""Sequences longer than an encoder can see: windows whose halo the model sees and the pool does not."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder
from covjax.encoders.embed import embed_tokens
from covjax.errors import InputError
from covjax.moments import Moments, merge, moments


class Window(NamedTuple):
    """Token ids that the model sees together, special tokens included, and which of them are this window's own."""

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

    The statistics are those of all tokens together (`merge` is exact); what a window cannot see, the context beyond its
    halo, is all that differs from one pass over the sequence. Raises InputError as `windows`, and where nothing is
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
