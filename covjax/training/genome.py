"""Windows of a genome for a masked language model: which bases are shown, hidden and counted, all from one seed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8, Int32

from covjax.data.genome import Region
from covjax.data.letters import IUPAC
from covjax.errors import InputError, shown

HIDDEN = 0.15  # share of the bases that the model must name (Devlin et al. 2019)
REACH = 15  # bases on each side of one that decide how often it stands in the genome
MARGIN = 5  # bases at the ends of held-out windows that are never hidden: k-mer models need their neighbours
LETTERS = "ACGT"
UNKNOWN = 4  # N and IUPAC's codes of several bases: shown as N, never hidden
AMBIGUOUS = "N" + IUPAC

Batch = tuple[Int32[np.ndarray, "b 3 t"], Float32[np.ndarray, "b t"]]


def base_codes(sequence: str, name: str = "sequence") -> Int8[np.ndarray, "t"]:
    """0 … 3 for A, C, G, T in either case, 4 for N and IUPAC's codes of several bases.

    Raises InputError for another letter, with the record's `name` and the position, counted from 1.
    """
    table = np.full(256, UNKNOWN + 1, np.int8)
    for letter in LETTERS + AMBIGUOUS:
        table[[ord(letter), ord(letter.lower())]] = LETTERS.index(letter) if letter in LETTERS else UNKNOWN
    codes = table[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    if (odd := codes > UNKNOWN).any():
        at = int(odd.argmax())
        remedy = "; write T for it" if sequence[at] in "uU" else ""
        raise InputError(
            f"record {shown(name, 40)}: {sequence[at]!r} at position {at + 1:,} is not a DNA letter; allowed: "
            f"{LETTERS}{AMBIGUOUS}{remedy}"
        )
    return codes


def reverse_complement(codes: Int[np.ndarray, "*b t"]) -> Int[np.ndarray, "*b t"]:
    """The other strand of codes of `base_codes`."""
    return np.where(codes == UNKNOWN, UNKNOWN, 3 - codes)[..., ::-1].astype(codes.dtype)


def repeat_weights(records: Sequence[Int8[np.ndarray, "_"]]) -> list[Float32[np.ndarray, "_"]]:
    """One over the number of times that a base stands in the genome with the same 15 bases on each side.

    Both strands count. A base near the end of a record has the number of the nearest that has 15 neighbours; where one
    of them is unknown the number is 1. Takes about 60 bytes of memory a base.
    """
    width = 2 * REACH + 1
    words = [_words(codes, width) for codes in records]
    every, known = (np.concatenate(parts) for parts in zip(*words, strict=True))
    _, number, copies = np.unique(every[known], return_inverse=True, return_counts=True)
    shares = np.ones(len(every), np.float32)
    shares[known] = 1 / copies[number]
    weights, start = [], 0
    for codes, (word, _) in zip(records, words, strict=True):
        own = shares[start : start + len(word)] if len(word) else np.ones(1, np.float32)
        start += len(word)
        weights.append(own[np.clip(np.arange(len(codes)) - REACH, 0, len(own) - 1)])
    return weights


def _words(codes: Int8[np.ndarray, "t"], width: int) -> tuple[np.ndarray, Bool[np.ndarray, "_"]]:
    """Every word of `width` bases as a number, the smaller of both strands', and whether all its bases are known."""
    count = max(len(codes) - width + 1, 0)
    forward, backward, known = np.zeros(count, np.uint64), np.zeros(count, np.uint64), np.ones(count, bool)
    for i in range(width):
        base = codes[i : i + count]
        known &= base != UNKNOWN
        base = (base & 3).astype(np.uint64)
        forward |= base << np.uint64(2 * i)
        backward |= (np.uint64(3) - base) << np.uint64(2 * (width - 1 - i))
    return np.minimum(forward, backward), known


class Windows:
    """Windows of `length` bases of some records of a genome, in batches (x, weights).

    x holds three rows for every window: the bases that are shown (`mask` where one is hidden, `unknown` where it is N),
    those that stand there, both in the numbers of the encoder, and the class of every position, 1 in a region. Weights
    are 0 where a base is shown, else what it counts for. What a batch holds depends on the seed and its number alone,
    so a run goes on anywhere.

    Args:
        records: codes of every record (`base_codes`).
        weights: what every base counts for; None: all alike.
        inside: whether every base lies in a region; None: none does.
        length: bases in a window.
        numbers: the encoder's numbers of A, C, G, T and N.
        mask: its number of a hidden base.

    Raises InputError where no record is as long as a window, and where those that are have no known base.
    """

    def __init__(
        self,
        records: Mapping[str, Int8[np.ndarray, "_"]],
        weights: Mapping[str, Float32[np.ndarray, "_"]] | None,
        inside: Mapping[str, Bool[np.ndarray, "_"]] | None,
        length: int,
        numbers: Int32[np.ndarray, "5"],
        mask: int,
    ):
        names = [name for name, codes in records.items() if len(codes) >= length]
        if not names:
            longest = max((len(codes) for codes in records.values()), default=0)
            raise InputError(f"length: {length} is more than the longest record has, {longest} bases; make it smaller")
        self.records = {name: records[name] for name in names}
        self._codes = np.concatenate([records[name] for name in names])
        if (self._codes == UNKNOWN).all():
            raise InputError(f"data: {', '.join(shown(name, 40) for name in names[:3])}: no A, C, G or T in any record")
        self._weights = None if weights is None else np.concatenate([weights[name] for name in names])
        self._inside = None if inside is None else np.concatenate([inside[name] for name in names])
        sizes = np.array([len(records[name]) for name in names])
        self._first = np.cumsum(sizes) - sizes
        self._starts = np.cumsum(sizes - length + 1)
        self.length, self._numbers, self._mask = length, numbers, mask

    def batch(self, size: int, seed: int, number: int) -> Batch:
        """`size` windows that lie anywhere, each on either strand, as batch `number` of a training."""
        rng = np.random.default_rng([seed, number])
        starts = rng.integers(self._starts[-1], size=size)
        strand = rng.random(size) < 0.5
        return self._make(self._places(starts), rng, strand)

    def held_out(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """`count` windows, or as many as there are without overlap, evenly spread; forward strand, in their order."""
        tiles = np.concatenate(
            [
                first + np.arange(0, len(codes) - self.length + 1, self.length)
                for first, codes in zip(self._first, self.records.values(), strict=True)
            ]
        )
        tiles = tiles[np.unique(np.linspace(0, len(tiles) - 1, min(count, len(tiles))).astype(int))]
        rng = np.random.default_rng([seed, 2**32])
        for start in range(0, len(tiles), size):
            places = tiles[start : start + size]
            yield self._make(places, rng, np.zeros(len(places), bool), MARGIN)

    def _places(self, starts: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b"]:
        record = np.searchsorted(self._starts, starts, side="right")
        before = np.concatenate([[0], self._starts[:-1]])
        return self._first[record] + starts - before[record]

    def _make(
        self, places: Int[np.ndarray, "b"], rng: np.random.Generator, reverse: Bool[np.ndarray, "b"], margin: int = 0
    ) -> Batch:
        at = places[:, None] + np.arange(self.length)
        codes = self._codes[at]
        hidden = (rng.random(codes.shape) < HIDDEN) & (codes != UNKNOWN)
        hidden[:, :margin] = hidden[:, self.length - margin :] = False
        weights = np.where(hidden, 1 if self._weights is None else self._weights[at], 0).astype(np.float32)
        inside = np.zeros_like(hidden) if self._inside is None else self._inside[at]
        flip: Any = reverse[:, None]
        codes = np.where(flip, reverse_complement(codes), codes)
        hidden, weights, inside = (np.where(flip, part[:, ::-1], part) for part in (hidden, weights, inside))
        true = self._numbers[codes]
        shown = np.where(hidden, self._mask, true)
        return np.stack([shown, true, inside.astype(np.int32)], 1).astype(np.int32), weights


def inside_regions(
    regions: Sequence[Region], records: Mapping[str, Int8[np.ndarray, "_"]]
) -> dict[str, Bool[np.ndarray, "_"]]:
    """Of every base whether it lies in one of the regions.

    Raises InputError for a region that is not within its record.
    """
    inside = {name: np.zeros(len(codes), bool) for name, codes in records.items()}
    for region in regions:
        if region.chromosome in inside:
            if fault := region.fault(len(inside[region.chromosome])):
                raise InputError(f"regions: line {region.line}: {fault}")
            inside[region.chromosome][region.start : region.end] = True
    return inside


class TwoSided:
    """p(base | k bases on each side), from counts on both strands, smoothed by the same model with one base fewer.

    p_k = (count + strength · p_{k−1}) / (total + strength), p_0 the share of every base; smoothing as by a Dirichlet
    prior (MacKay and Peto 1995). Contexts with an unknown base are not counted.
    """

    def __init__(self, records: Sequence[Int8[np.ndarray, "_"]], most: int = MARGIN):
        self.counts = [np.zeros((16**k, 4)) for k in range(most + 1)]
        for record in records:
            for codes in (record, reverse_complement(record)):
                for k, table in enumerate(self.counts):
                    middle = np.arange(k, max(len(codes) - k, k))
                    context, known = _context(codes, middle, k)
                    flat = (context * 4 + np.minimum(codes[middle], 3))[known & (codes[middle] != UNKNOWN)]
                    table += np.bincount(flat, minlength=table.size).reshape(table.shape)

    def nats(
        self, codes: Int[np.ndarray, "t"], places: Int[np.ndarray, "m"], strength: float
    ) -> Float[np.ndarray, "orders m"]:
        """−log p of the base at every place, for k = 0, 1, …; places have `most` known neighbours or are backed off."""
        rows = np.arange(len(places))
        total = self.counts[0].sum()
        p = np.broadcast_to(self.counts[0] / total, (len(places), 4))
        losses = [-np.log(p[rows, codes[places]])]
        for k in range(1, len(self.counts)):
            context, known = _context(codes, places, k)
            counts = self.counts[k][np.where(known, context, 0)] * known[:, None]
            p = (counts + strength * p) / (counts.sum(1, keepdims=True) + strength)
            losses.append(-np.log(p[rows, codes[places]]))
        return np.stack(losses)


def _context(
    codes: Int[np.ndarray, "t"], places: Int[np.ndarray, "m"], k: int
) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "m"]]:
    context, known = np.zeros(len(places), np.int64), np.ones(len(places), bool)
    for offset in (*range(-k, 0), *range(1, k + 1)):
        base = codes[places + offset].astype(np.int64)
        known &= base != UNKNOWN
        context = context * 4 + (base & 3)
    return context, known
