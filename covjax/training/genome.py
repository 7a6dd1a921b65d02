"""Windows of a genome for a masked language model: which bases are shown, hidden and counted, all from one seed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32

from covjax.data.genome import Region, read_bed, report_absent, stream_chromosomes
from covjax.data.letters import IUPAC, RESIDUES_ALONE, letter_codes
from covjax.data.text import NAMED, warn
from covjax.encoders.heads import MASKED_SHARE
from covjax.encoders.ntv3 import VOCABULARY, NTv3
from covjax.errors import InputError, shown
from covjax.notes import note
from covjax.training.config import EncoderConfig
from covjax.training.kinds import Batch, Corpus, Kind
from covjax.training.language import TwoSided

REACH = 15  # bases on each side of one that decide how often it stands in the genome
MARGIN = 5  # bases at the ends of held-out windows that are never hidden: k-mer models need their neighbours
LETTERS = "ACGT"
UNKNOWN = 4  # N and IUPAC's codes of several bases: shown as N, never hidden
AMBIGUOUS = "N" + IUPAC
REMEDIES = {"U": "write T for it", **dict.fromkeys(RESIDUES_ALONE, "proteins need --kind esm")}


def read_genome(config: EncoderConfig) -> Corpus:
    """Read and check the genome, and split its records into those for training and those for judging."""
    if config.length % 2**config.downsamples:
        raise InputError(f"length: {config.length} is not a multiple of {2**config.downsamples} (2^downsamples)")
    records, digest = {}, hashlib.sha256()
    for name, sequence in stream_chromosomes(config.data):
        records[name] = base_codes(sequence, name)
        digest.update(name.encode() + records[name].tobytes())
    names = [*dict.fromkeys(name.strip() for name in config.holdout.split(",") if name.strip())]
    if unknown := [name for name in names if name not in records]:
        some = ", ".join(shown(name, 40) for name in [*records][:5])
        raise InputError(f"holdout: {shown(unknown[0])} is not a record of {config.data}; it has {some}, …")
    if not names or len(names) == len(records):
        raise InputError(f"holdout: {config.holdout!r} leaves nothing to train on or to judge by; name some records")
    inside = _inside(config, records, names) if config.regions else None
    if short := [name for name, codes in records.items() if len(codes) < config.length]:
        some = ", ".join(shown(name, 40) for name in short[:NAMED])
        warn(f"{config.data}: left out {len(short):,} records shorter than {config.length} bases: {some}")
    weights = dict(zip(records, repeat_weights([*records.values()]), strict=True))
    numbers = np.array([VOCABULARY.index(letter) for letter in LETTERS + "N"], np.int32)
    mask = VOCABULARY.index("<mask>")
    rest = {name: codes for name, codes in records.items() if name not in names}
    held = {name: records[name] for name in names}
    note(f"{sum(map(len, rest.values())):,} bases to train on, {sum(map(len, held.values())):,} held out")
    train, judge = (
        Windows(part, counts, inside, config.length, numbers, mask) for part, counts in ((rest, weights), (held, None))
    )
    strands = (strand for codes in rest.values() for strand in (codes, reverse_complement(codes)))
    return Corpus(train, judge, TwoSided(strands, len(LETTERS), MARGIN), digest.hexdigest())


def _inside(config: EncoderConfig, records: Mapping[str, np.ndarray], held: Sequence[str]) -> dict[str, np.ndarray]:
    lines = defaultdict[str, list[int]](list)
    for region in (regions := read_bed(config.regions)):
        lines[region.chromosome].append(region.line)
    report_absent(config.regions, config.data, lines, [*records], warn)
    if not set(lines) & set(held):
        raise InputError(f"regions: none of {config.regions} lies on a held-out record; leave --regions out")
    return inside_regions(regions, records)


def base_codes(sequence: str, name: str = "sequence") -> Int8[np.ndarray, "t"]:
    """0 … 3 for A, C, G, T in either case, 4 for N and IUPAC's codes of several bases; see `letter_codes`."""
    return letter_codes(sequence, LETTERS, AMBIGUOUS, name, "a DNA letter", REMEDIES)


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

    15 % of the bases are hidden; see `Examples`.

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
        hidden = (rng.random(codes.shape) < MASKED_SHARE) & (codes != UNKNOWN)
        hidden[:, :margin] = hidden[:, self.length - margin :] = False
        weights = np.where(hidden, 1 if self._weights is None else self._weights[at], 0).astype(np.float32)
        inside = np.zeros_like(hidden) if self._inside is None else self._inside[at]
        flip: Any = reverse[:, None]
        codes = np.where(flip, reverse_complement(codes), codes)
        hidden, weights, inside = (np.where(flip, part[:, ::-1], part) for part in (hidden, weights, inside))
        true = self._numbers[codes]
        shown = np.where(hidden, self._mask, true)
        return np.stack([shown, true, inside, np.ones_like(true)], 1).astype(np.int32), weights


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


def _files(config: EncoderConfig) -> dict[str, str]:
    options = {
        **{"model_type": "ntv3", "alphabet_size": len(VOCABULARY), "pad_token_id": 1, "mask_token_id": 2},
        **{"token_embed_dim": 16, "conv_init_embed_dim": config.width, "embed_dim": config.width},
        **{"ffn_embed_dim": 2 * config.width, "num_layers": config.blocks, "num_downsamples": config.downsamples},
        **{"attention_heads": config.heads, "key_size": config.width // config.heads},
        **{"deconv_upsample_type": "conv_transpose", "use_skip_connection": True, "layer_norm_eps": 1e-5},
    }
    return {"config.json": json.dumps(options, indent=1) + "\n"}


DNA = Kind(NTv3, _files, str, read_genome, VOCABULARY, LETTERS, "base")
