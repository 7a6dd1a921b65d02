"""How latents go together: active on the same tokens, decoders that point the same way, the same latent again."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from covjax.autoencoders.stability import matched_cosines
from covjax.errors import InputError

NEAREST = 10  # related latents of each
CHUNK = 256  # latents at a time: memory goes with CHUNK · latents
MOST_PAIRS = 2 * 10**9  # of active latents on one token, ordered; of denser codes a part of the tokens is counted
ALL_PAIRS = 4096  # latents: up to so many are matched exactly
CANDIDATES = 32


class Together(NamedTuple):
    """The `NEAREST` latents that go with each most, by phi; -1 where there are fewer.

    `both` counts the tokens on which the two are active, of `tokens` that were read.
    """

    latents: Int[np.ndarray, "latents n"]
    both: Int[np.ndarray, "latents n"]
    lift: Float[np.ndarray, "latents n"]
    pmi: Float[np.ndarray, "latents n"]
    phi: Float[np.ndarray, "latents n"]
    tokens: int


def association(both, left, right, total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lift, PMI in bits, and phi of events that happen `left` and `right` times in `total`, `both` together.

    Lift is the ratio of both to what independence expects, PMI its log₂, phi the Pearson correlation of the two
    indicators; lift and phi of an event that never or always happens are 1 and 0.
    """
    both, left, right = (np.asarray(each, np.float64) for each in (both, left, right))
    expected = left * right / total
    lift = np.where(expected > 0, both / np.where(expected > 0, expected, 1), 1)
    spread = left * right * (total - left) * (total - right)
    phi = np.where(spread > 0, (total * both - left * right) / np.sqrt(np.where(spread > 0, spread, 1)), 0)
    with np.errstate(divide="ignore"):
        return lift, np.log2(lift), phi


def cooccurring(codes: sparse.csr_matrix, seed: int = 0) -> Together:
    """The latents active on the same tokens as each; `codes` (tokens, latents).

    Only pairs that are active together are counted, `CHUNK` rows of the count matrix at a time. Where a token has many
    latents, random tokens with at most `MOST_PAIRS` pairs stand for all.
    """
    pairs = np.diff(codes.indptr).astype(np.int64) ** 2
    chosen = np.arange(codes.shape[0])
    if pairs.sum() > MOST_PAIRS:
        order = np.random.default_rng(seed).permutation(codes.shape[0])
        chosen = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(pairs[order]), MOST_PAIRS)))])
    active = codes if len(chosen) == codes.shape[0] else codes[chosen]
    ones = sparse.csr_matrix((np.ones(active.nnz, np.float32), active.indices, active.indptr), active.shape)
    columns = ones.tocsc()
    total, latents = active.shape
    often = np.diff(columns.indptr).astype(np.float64)
    shape = (latents, NEAREST)
    zeros = np.zeros((3, *shape))
    out = Together(np.full(shape, -1), np.zeros(shape, np.int64), zeros[0], zeros[1], zeros[2], total)
    for start in range(0, latents, CHUNK):
        counts = columns[:, start : start + CHUNK].T.tocsr() @ ones
        for row in range(counts.shape[0]):
            part, latent = slice(counts.indptr[row], counts.indptr[row + 1]), start + row
            others, both = counts.indices[part], counts.data[part]
            others, both = others[others != latent], both[others != latent]
            lift, pmi, phi = association(both, often[latent], often[others], total)
            near = np.arange(len(phi))
            if len(phi) > NEAREST:  # most of them need no order
                near = np.flatnonzero(phi >= np.partition(phi, -NEAREST)[-NEAREST])
            order = near[np.lexsort((others[near], -phi[near]))[:NEAREST]]
            for array, values in zip(out[:5], (others, both, lift, pmi, phi)):
                array[latent, : len(order)] = values[order]
    return out


def decoder_neighbours(
    decoder: Float[np.ndarray, "latents features"],
) -> tuple[Int[np.ndarray, "latents n"], Float[np.ndarray, "latents n"]]:
    """The `NEAREST` other latents whose decoder rows have the largest cosine with each, and the cosines."""
    rows = _unit(decoder)
    count = min(NEAREST, len(rows) - 1)
    places, cosines = np.zeros((len(rows), count), np.int64), np.zeros((len(rows), count))
    for start in range(0, len(rows), CHUNK):
        block = rows[start : start + CHUNK] @ rows.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        places[start : start + CHUNK], cosines[start : start + CHUNK] = _largest(block, count)
    return places, cosines


def stability(
    decoder: Float[np.ndarray, "latents features"], other: Float[np.ndarray, "_ _"]
) -> Float[np.ndarray, "latents"]:
    """Cosine of every latent's decoder row with its own one of another training, one to one.

    Up to `ALL_PAIRS` latents the matching with the largest sum (`matched_cosines`). Of more, pairs are taken in
    descending order of their cosine among each row's `CANDIDATES` nearest, and a row all of whose candidates are taken
    has 0: the exact matching takes time with the cube of the latents.
    Raises InputError for decoders of other shapes.
    """
    if decoder.shape != other.shape:
        raise InputError(f"compare: a decoder of shape {other.shape}, expected {decoder.shape}; name other seeds of it")
    if len(decoder) <= ALL_PAIRS:
        return matched_cosines(decoder, other)
    rows, columns = _unit(decoder), _unit(other)
    parts = [_largest(rows[i : i + CHUNK] @ columns.T, CANDIDATES) for i in range(0, len(rows), CHUNK)]
    places, cosines = (np.concatenate(each) for each in zip(*parts))
    matched, free = np.zeros(len(rows)), np.ones(len(rows), bool)
    done = np.zeros(len(rows), bool)
    for pair in np.argsort(-cosines, axis=None, kind="stable"):
        left, rank = divmod(int(pair), places.shape[1])
        right = places[left, rank]
        if not done[left] and free[right]:
            done[left], free[right] = True, False
            matched[left] = min(float(cosines[left, rank]), 1.0)
    return matched


def _largest(block: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.argpartition(-block, min(count, block.shape[1]) - 1, axis=1)[:, :count]
    values = np.take_along_axis(block, places, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(places, order, 1), np.take_along_axis(values, order, 1)


def _unit(rows: np.ndarray) -> Float[np.ndarray, "latents features"]:
    rows = np.asarray(rows, np.float32)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)
