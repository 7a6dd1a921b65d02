"""What single latents do: how often they are active, how much, and in which contexts."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

BINS = 20  # of an activation histogram, from 0 to the latent's maximum
TOP, BANDS, EACH = 10, 4, 2  # contexts: of the highest sequences, and random ones of each quarter of the active tokens


class Latents(NamedTuple):
    """Figures of every latent over the tokens of a corpus; a place is a token's, -1 where there are fewer contexts.

    `tokens` and `sequences` count where it is active; `mean` is that of the active tokens. A context is the place of
    one token, which is the sequence's highest for the first `TOP`, in descending order, each of another sequence. The
    others are random active tokens, `EACH` of every quarter of these from the lowest up; `edges` are the least and the
    largest value of each quarter.
    """

    tokens: Int[np.ndarray, "latents"]
    sequences: Int[np.ndarray, "latents"]
    mean: Float[np.ndarray, "latents"]
    largest: Float[np.ndarray, "latents"]
    histogram: Int[np.ndarray, "latents bins"]
    contexts: Int[np.ndarray, "latents contexts"]
    edges: Float[np.ndarray, "latents bands 2"]


def describe_latents(codes: sparse.csc_matrix, starts: Int[np.ndarray, "_"], seed: int) -> Latents:
    """Figures and contexts of all latents; `codes` (tokens, latents) by latent, `starts` the sequences' first tokens.

    Of equal values the first counts; what is random depends on the seed and the latent alone.
    """
    latents = codes.shape[1]
    mean, largest = np.zeros(latents), np.zeros(latents)
    sequences = np.zeros(latents, np.int64)
    histogram = np.zeros((latents, BINS), np.int64)
    contexts = np.full((latents, TOP + BANDS * EACH), -1)
    edges = np.zeros((latents, BANDS, 2))
    for latent in range(latents):
        part = slice(codes.indptr[latent], codes.indptr[latent + 1])
        tokens, values = codes.indices[part], codes.data[part]
        if not len(tokens):
            continue
        mean[latent], largest[latent] = values.mean(dtype=np.float64), values.max()
        bins = np.minimum((values / values.max() * BINS).astype(int), BINS - 1)
        histogram[latent] = np.bincount(bins, minlength=BINS)
        owner = np.searchsorted(starts, tokens, "right")
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        sequences[latent] = len(first)
        peaks = np.maximum.reduceat(values, first)
        top = np.argsort(-peaks, kind="stable")[:TOP]
        ends = np.append(first[1:], len(tokens))
        contexts[latent, : len(top)] = [tokens[first[i] + np.argmax(values[first[i] : ends[i]])] for i in top]
        order = np.argsort(values, kind="stable")
        random = np.random.default_rng([seed, latent])
        for band, quarter in enumerate(np.array_split(order, BANDS)):
            if not len(quarter):
                continue
            edges[latent, band] = values[quarter[0]], values[quarter[-1]]
            chosen = random.choice(quarter, min(EACH, len(quarter)), replace=False)
            place = TOP + EACH * band
            contexts[latent, place : place + len(chosen)] = np.sort(tokens[chosen])
    counts = np.diff(codes.indptr).astype(np.int64)
    return Latents(counts, sequences, mean, largest, histogram, contexts, edges)


def context_windows(
    codes: sparse.csc_matrix, contexts: Int[np.ndarray, "latents contexts"], starts: Int[np.ndarray, "_"], reach: int
) -> tuple[Int[np.ndarray, "latents contexts 2"], Float[np.ndarray, "latents contexts width"]]:
    """First and last token (half-open) within `reach` of each context in its sequence, and the latent's values there.

    Values of a shorter window stand at its start; places without a context have an empty window.
    """
    latents, count = contexts.shape
    ends = np.zeros((latents, count, 2), np.int64)
    values = np.zeros((latents, count, 2 * reach + 1), np.float32)
    owner = np.searchsorted(starts, contexts, "right")
    ends[..., 0] = np.maximum(contexts - reach, starts[np.maximum(owner - 1, 0)])
    ends[..., 1] = np.minimum(contexts + reach + 1, starts[np.minimum(owner, len(starts) - 1)])
    ends[contexts < 0] = 0
    for latent in range(latents):
        part = slice(codes.indptr[latent], codes.indptr[latent + 1])
        tokens, active = codes.indices[part], codes.data[part]
        lows, highs = (np.searchsorted(tokens, ends[latent, :, side]) for side in (0, 1))
        for place, (low, high) in enumerate(zip(lows, highs)):
            values[latent, place, tokens[low:high] - ends[latent, place, 0]] = active[low:high]
    return ends, values
