"""Sequences that are nearly copies of each other, recognised by their shared pieces."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covjax.data.letters import is_nucleotides, reverse_complement
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
    starts: Int[np.ndarray, "ends"]

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
    """The sequence without irrelevant differences: case, U for T in DNA, punctuation in text."""
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


SIMILAR = 0.9
# Kind of letters: how many as frequent ones it amounts to, the shortest piece.
UNITS = {"dna": (4, 8), "protein": (18, 4), "text": (1000, 3)}
CHANCE_PAIRS = 2e6  # of unrelated sequences that share some piece, in the whole table
SAMPLE = 1 << 22  # pieces looked at in one round
BLOCK = 1 << 22
BUDGET = 200_000_000  # pairs of sequences with a piece in common that are counted
TESTS = 200_000  # pairs that are looked at one by one after that


def near_copies(sequences: Sequence[str], kind: str = "") -> Int[np.ndarray, "sequences"]:
    """Group of every sequence, named by its first member: near copies share a group, also through chains.

    Two sequences are near copies where, of the shorter one's pieces, at least the share 0.9ᵏ also stands in the longer
    one: what is left of pieces of k letters when each letter is kept with a probability of 0.9. A fragment of a longer
    sequence is a near copy of it. Sequences of more than ten letters that differ in one are always near copies where a
    piece is left in common; shorter ones must be contained whole. Pieces are k letters of proteins, k letters of DNA on
    both strands, k words of text; a piece that occurs several times counts as often, so a run of one letter, common
    to two sequences, links them only where it is most of one. Case does not count, nor punctuation of text.

    k is the smallest number, at least 4 for proteins, 8 for DNA and 3 for text, for which aᵏ is at least N²/2·10⁶
    and 40 L (N letters in all, L in the longest, a = 18, 4 and 1,000): unrelated sequences then hardly share a piece.

    Exact, up to hashes of 40 bits, unless more than 2·10⁸ pairs share a piece (families of thousands that are far from
    alike, repeats of genomes): then the most common pieces propose only what some random orders put side by side.
    `kind` is "protein", "dna" or "text"; empty: by the letters. The same sequences in the same order give the same
    groups.
    """
    kind = kind or _kind(sequences)
    first: dict[str, int] = {}
    copy_of = np.array([first.setdefault(normal_form(s, kind), i) for i, s in enumerate(sequences)], int)
    distinct = sorted(first, key=lambda s: length(s, kind))  # of two, the shorter one has the lower number
    lengths = np.array([length(s, kind) for s in distinct], int)
    k = piece_length(kind, lengths)
    members = np.array([first[s] for s in distinct], int)
    del first
    pieces = hash_pieces(distinct, kind, k)
    labels = _link(pieces, pieces_needed(lengths, pieces.sizes, k))
    lowest = np.full(len(distinct), len(sequences))
    np.minimum.at(lowest, labels, members)
    group = np.empty(len(sequences), int)
    group[members] = lowest[labels]
    return group[copy_of]


def _kind(sequences: Sequence[str]) -> str:
    if any(len(sequence.split(None, 1)) > 1 for sequence in sequences):
        return "text"
    return "dna" if is_nucleotides(sequences) else "protein"


def piece_length(kind: str, lengths: Int[np.ndarray, "n"]) -> int:
    """k of `near_copies`, for distinct sequences of these lengths."""
    letters, shortest = UNITS[kind]
    total, longest = int(lengths.sum()), int(lengths.max(initial=1))
    return max(shortest, math.ceil(math.log(max(total**2 / CHANCE_PAIRS, 40 * longest)) / math.log(letters)))


def pieces_needed(lengths: Int[np.ndarray, "n"], sizes: Int[np.ndarray, "n"], k: int) -> Int[np.ndarray, "n"]:
    """How many of its pieces a sequence must have in common with a longer one; see `near_copies`."""
    share = np.ceil(SIMILAR**k * sizes - 1e-9).astype(int)
    one_change = np.where(sizes > k, sizes - k, sizes)
    return np.where(lengths > 10, np.minimum(share, one_change), sizes)


def _link(pieces: Pieces, needed: np.ndarray) -> np.ndarray:
    """Component of every sequence under `needed`; sequences are numbered from the shortest to the longest."""
    labels = np.arange(len(needed))
    members, lists, asks = _postings(pieces, needed)
    tested = np.empty(0, np.uint64)
    # Boruvka's way: each group tries the neighbour most often beside it. Copies fall together in a few rounds.
    rng = np.random.default_rng(0)
    for _ in range(30):
        members, lists = _open_lists(members, lists, labels)
        if not len(members):
            return labels
        pairs = _neighbours(members, lists, labels, tested, rng)
        labels, linked = _test(pieces, needed, labels, pairs)
        tested = np.union1d(tested, pairs)
        if linked < 0.02 * len(labels) and linked < 0.5 * len(pairs):
            break
    members, lists = _open_lists(members, lists, labels)
    left = TESTS
    for at, after, least in _blocks(members, lists, asks, needed):
        first = np.repeat(members[at], after)
        second = members[np.repeat(at + 1 - (np.cumsum(after) - after), after) + np.arange(len(first))]
        apart = labels[first] != labels[second]
        pairs, counts = np.unique(_join(first[apart], second[apart]), return_counts=True)
        enough = (counts >= least[_split(pairs)[0]]) & ~np.isin(pairs, tested, assume_unique=True)
        pairs = pairs[enough][np.argsort(-counts[enough], kind="stable")]
        for begin in range(0, len(pairs), 10_000):
            part = pairs[begin : begin + 10_000]
            first, second = _split(part)
            part = part[labels[first] != labels[second]][:left]
            labels, _ = _test(pieces, needed, labels, part)
            left -= len(part)
    return labels


def _postings(pieces: Pieces, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members of the lists of pieces that several sequences have, their lists, and which sequences may be contained.

    A sequence that has too many pieces alone is not, and a list without one that may be is left out.
    """
    items = pieces.packed << np.uint64(ID_BITS)
    items |= pieces.packed >> np.uint64(HASH_BITS)
    items.sort()
    same = np.empty(len(items) + 1, bool)  # as the one before
    same[0] = same[-1] = False
    for part in _parts(1, len(items)):
        same[part] = (items[part] ^ items[part.start - 1 : part.stop - 1]) < np.uint64(1 << ID_BITS)
    shared = same[:-1] | same[1:]
    lists = np.cumsum(~same[:-1][shared], dtype=np.int32)
    lists -= 1
    items = items[shared]
    del same, shared
    items &= np.uint64((1 << ID_BITS) - 1)
    members = items.astype(np.int32)
    del items
    asks = np.bincount(members, minlength=len(needed)) >= needed
    asked = np.zeros(lists[-1] + 1 if len(lists) else 0, bool)
    asked[lists[asks[members]]] = True
    keep = asked[lists]
    return members[keep], lists[keep], asks


def _parts(begin: int, end: int) -> Iterator[slice]:
    return (slice(at, min(at + SAMPLE, end)) for at in range(begin, end, SAMPLE))


def _open_lists(members: np.ndarray, lists: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lists that still have members of several groups."""
    if not len(members):
        return members, lists
    begins = np.flatnonzero(np.append(True, lists[1:] != lists[:-1]))
    groups = labels[members]
    several = np.minimum.reduceat(groups, begins) != np.maximum.reduceat(groups, begins)
    keep = np.repeat(several, np.diff(np.append(begins, len(lists))))
    return members[keep], lists[keep]


def _neighbours(
    members: np.ndarray, lists: np.ndarray, labels: np.ndarray, tested: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For every group one pair with another group, untested, of those side by side in one random order of all."""
    order = rng.permutation(len(labels)).astype(np.uint64)
    back = np.argsort(order)
    if len(members) > SAMPLE:  # some of the lists
        chosen = rng.random(lists[-1] + 1) < SAMPLE / len(members)
        if not chosen[lists].any():
            chosen[lists[0]] = True
        members, lists = members[chosen[lists]], lists[chosen[lists]]
    keys = (lists.astype(np.uint64) << np.uint64(32)) | order[members]
    keys.sort()
    member = back[(keys & np.uint64((1 << 32) - 1)).astype(np.int64)]
    beside = (keys[1:] ^ keys[:-1]) < np.uint64(1 << 32)
    beside &= labels[member[1:]] != labels[member[:-1]]
    pairs, counts = np.unique(_join(member[1:][beside], member[:-1][beside]), return_counts=True)
    fresh = ~np.isin(pairs, tested, assume_unique=True)
    pairs, counts = pairs[fresh], counts[fresh]
    best = np.argsort(-counts, kind="stable")
    first, second = _split(pairs[best])
    chosen = [np.unique(labels[side], return_index=True)[1] for side in (first, second)]
    return np.unique(pairs[best[np.concatenate(chosen)]])


def _blocks(
    members: np.ndarray, lists: np.ndarray, asks: np.ndarray, needed: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All postings of some sequences that ask, how many longer ones follow in each list, how often a pair must be met.

    The longest lists are left out where the pairs are too many; a sequence then needs as many fewer.
    """
    if not len(members):
        return
    begins = np.flatnonzero(np.append(True, lists[1:] != lists[:-1]))
    sizes = np.diff(np.append(begins, len(lists)))
    by_size = np.bincount(sizes)
    work = np.cumsum(by_size * np.arange(len(by_size), dtype=float) ** 2 / 2)
    longest = int(np.searchsorted(work, BUDGET, "right")) - 1
    after = np.repeat((begins + sizes).astype(np.int32), sizes) - np.arange(1, len(lists) + 1, dtype=np.int32)
    common = np.repeat(sizes > longest, sizes)
    after[common | ~asks[members]] = 0
    least = np.maximum(needed - np.bincount(members[common], minlength=len(needed)), 1)
    ends = np.cumsum(np.bincount(members, after, minlength=len(needed)))
    first, done = 0, 0.0
    while done < ends[-1]:
        last = max(first + 1, int(np.searchsorted(ends, done + BLOCK, "right")))
        at = np.flatnonzero((members >= first) & (members < last) & (after > 0))
        yield at, after[at], least
        first, done = last, ends[last - 1]


def _join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (np.minimum(a, b).astype(np.uint64) << np.uint64(32)) | np.maximum(a, b).astype(np.uint64)


def _split(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64((1 << 32) - 1)).astype(np.int64)


def _test(pieces: Pieces, needed: np.ndarray, labels: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels after the pairs that are near copies are joined, and how many pairs these are."""
    first, second = _split(pairs)
    order = np.argsort(second, kind="stable")
    short, long = first[order], second[order]
    near = np.zeros(len(pairs), bool)
    sizes, begins = pieces.sizes[short], pieces.starts[short]
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(pairs):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + BLOCK, "right")))
        size = sizes[begin:end]
        owner = np.repeat(np.arange(end - begin), size)
        at = np.arange(len(owner)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(begins[begin:end], size)
        keys = pieces.packed[at] & np.uint64((1 << HASH_BITS) - 1)
        keys |= np.repeat(long[begin:end].astype(np.uint64), size) << np.uint64(HASH_BITS)
        place = np.minimum(np.searchsorted(pieces.packed, keys), len(pieces.packed) - 1)
        common = np.bincount(owner[pieces.packed[place] == keys], minlength=end - begin)
        near[begin:end] = common >= needed[short[begin:end]]
        begin = end
    linked = int(near.sum())
    if linked:
        a, b = labels[short[near]], labels[long[near]]
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(labels), len(labels)))
        component = connected_components(graph, directed=False)[1]
        labels = component[labels]
    return labels, linked
