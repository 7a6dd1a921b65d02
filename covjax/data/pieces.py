"""The pieces (k-mers, or runs of words) of many sequences as sorted numbers, a few bytes each."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt64

from covjax.data.nucleotides import reverse_complement
from covjax.errors import InputError

ID_BITS, HASH_BITS = 24, 40
CHUNK = 1 << 20  # letters hashed at once
FILL = "\0"  # behind a sequence shorter than a piece
FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Pieces of every sequence: `packed[starts[i]:starts[i + 1]]` belong to sequence i, ascending.

    A number is the sequence's in the upper 24 bits, the piece's hash in the lower 40. A piece that a sequence has
    several times counts as often: its second, third, … occurrence has a hash of its own.
    """

    packed: UInt64[np.ndarray, "pieces"]
    starts: Int[np.ndarray, "sequences+1"]

    @property
    def sizes(self) -> Int[np.ndarray, "sequences"]:
        """How many pieces each sequence has."""
        return np.diff(self.starts)


def hash_pieces(sequences: Sequence[str], kind: str, k: int) -> Pieces:
    """The pieces of k letters ("protein"; "dna": the same on both strands) or k words ("text") of every sequence.

    A sequence shorter than k is one piece. Case does not count, nor does U for T in DNA and punctuation in text. Two
    pieces that differ have the same hash with a probability of 2⁻⁴⁰.
    """
    if len(sequences) >= 1 << ID_BITS:
        raise InputError(f"{len(sequences):,} sequences, more than the {1 << ID_BITS:,} that can be compared")
    lengths: list[int] = []
    blocks = []
    for codes, other, sizes in _chunks(sequences, kind, k):
        blocks.append(_hash_chunk(codes, other, sizes, k, len(lengths)))
        lengths += sizes
    starts = np.concatenate([[0], np.cumsum(np.maximum(np.array(lengths, int) - k, 0) + 1)])
    packed = np.empty(starts[-1], np.uint64)
    end = len(packed)
    while blocks:  # from behind: what is copied is let go
        block = blocks.pop()
        packed[end - len(block) : end] = block
        end -= len(block)
    return Pieces(packed, starts)


def normal_form(sequence: str, kind: str) -> str:
    """The sequence without what does not count: case, U for T in DNA, punctuation in text."""
    if kind == "text":
        return " ".join(re.findall(r"\w+", sequence.lower())) or sequence.lower()
    sequence = sequence.upper()
    return sequence.replace("U", "T") if kind == "dna" else sequence


def length(normal: str, kind: str) -> int:
    """Letters, or words of text, of a sequence in its normal form."""
    return normal.count(" ") + 1 if kind == "text" else len(normal)


def _chunks(sequences: Sequence[str], kind: str, k: int) -> Iterator[tuple[np.ndarray, np.ndarray | None, list[int]]]:
    """Codes of about `CHUNK` letters of whole sequences, of the other strand's letters, and the sequences' lengths."""
    vocabulary: dict[str, int] = {}
    first = 0
    while first < len(sequences):
        last, letters = first, 0
        while last < len(sequences) and (letters < CHUNK or last == first):
            letters += len(sequences[last]) + k
            last += 1
        chunk = [normal_form(sequence, kind) for sequence in sequences[first:last]]
        first = last
        if kind == "text":
            words = [text.split(" ") for text in chunk]
            sizes = [max(len(each), k) for each in words]
            numbers = [
                vocabulary.setdefault(word, len(vocabulary))
                for each in words
                for word in (*each, *[FILL] * (k - len(each)))
            ]
            yield np.array(numbers, np.uint64), None, sizes
            continue
        if kind == "dna":  # of a sequence that is one piece, the strand that sorts first
            chunk = [min(s, reverse_complement(s)) if len(s) < k else s for s in chunk]
        chunk = [s.ljust(k, FILL) for s in chunk]
        text = "".join(chunk)
        yield _codes(text), _codes(reverse_complement(text)[::-1]) if kind == "dna" else None, [len(s) for s in chunk]


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)


def _hash_chunk(codes: np.ndarray, other: np.ndarray | None, sizes: list[int], k: int, first: int) -> np.ndarray:
    values = _mix(codes)
    windows = len(codes) - k + 1
    hashes = np.zeros(windows, np.uint64)
    for j in range(k):
        hashes = hashes * FACTOR + values[j : j + windows]
    if other is not None:
        values, back = _mix(other), np.zeros(windows, np.uint64)
        for j in reversed(range(k)):
            back = back * FACTOR + values[j : j + windows]
        hashes = np.minimum(hashes, back)
    counts = np.array(sizes) - k + 1
    begins = np.cumsum(sizes) - sizes
    places = np.arange(counts.sum()) + np.repeat(begins - (np.cumsum(counts) - counts), counts)
    owners = np.repeat(np.arange(first, first + len(sizes), dtype=np.uint64), counts) << np.uint64(HASH_BITS)
    packed = owners | (_mix(hashes[places]) >> np.uint64(64 - HASH_BITS))
    packed.sort()
    fresh = np.append(True, packed[1:] != packed[:-1])
    again = np.flatnonzero(~fresh)
    if len(again):
        begin = np.maximum.accumulate(np.where(fresh, np.arange(len(packed)), 0))[again]
        turn = (again - begin).astype(np.uint64)
        low = np.uint64((1 << HASH_BITS) - 1)
        salted = _mix((packed[again] & low) ^ _mix(turn + np.uint64(1 << 32))) >> np.uint64(64 - HASH_BITS)
        packed[again] = (packed[again] & ~low) | salted
        packed.sort()
    return packed


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers whose bits all depend on all (Steele, Lea and Flood 2014, SplitMix)."""
    x = x + FACTOR
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
