"""Which sequences are relatives, from exact shared pieces: groups for an honest split where none are given."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

from covjax.data.letters import reverse_complement
from covjax.errors import InputError


def kmers(sequence: str, k: int, both_strands: bool = False) -> set[str]:
    """The k-mers of a sequence, the whole one where it is shorter; `both_strands` makes a k-mer and its complement one.

    Raises InputError for k < 1.
    """
    if k < 1:
        raise InputError(f"k: {k} must be >= 1")
    if both_strands:
        return set(canonical_kmers(sequence, k))
    return {sequence[i : i + k] for i in range(max(len(sequence) - k, 0) + 1)}


def canonical_kmers(sequence: str, k: int) -> Iterator[str]:
    """At every place the k-mer or its reverse complement, whichever sorts first: the same on both strands.

    The whole sequence where it is shorter.
    """
    other = reverse_complement(sequence)
    for i in range(max(len(sequence) - k, 0) + 1):
        yield min(sequence[i : i + k], other[max(len(sequence) - i - k, 0) : len(sequence) - i])


def word_runs(text: str, n: int) -> set[tuple[str, ...]]:
    """Runs of n words, the whole text where it is shorter; case and punctuation do not count.

    Raises InputError for n < 1.
    """
    if n < 1:
        raise InputError(f"n: {n} must be >= 1")
    words = tuple(re.findall(r"\w+", text.lower()))
    return {words[i : i + n] for i in range(max(len(words) - n, 0) + 1)}


def linked(pieces: Sequence[Iterable[Hashable]]) -> list[int]:
    """Group of every item: those that share a piece stand together, and so on along chains of sharing.

    A group's number is that of its first item. No two groups have a piece in common.
    """
    parent = list(range(len(pieces)))
    owner: dict[Hashable, int] = {}
    for i, own in enumerate(pieces):
        for piece in own:
            _join(parent, i, owner.setdefault(piece, i))
    return [_root(parent, i) for i in range(len(pieces))]


def overlapping(pieces: Sequence[Collection[Hashable]], share: float) -> list[int]:
    """Group of every item: two stand together where they share at least `share` of the smaller one's distinct pieces.

    Single linkage, exact over all pairs: between two groups no pair reaches `share`. A group's number is that of its
    first item. Time and memory grow with the pairs that share anything, so rare pieces (k-mers of proteins) suit.

    Raises InputError where `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share: {share} must be in (0, 1]")
    parent = list(range(len(pieces)))
    sets = [set(own) for own in pieces]
    owners: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i, own in enumerate(sets):
        common: Counter[int] = Counter()
        for piece in own:
            common.update(owners[piece])
            owners[piece].append(i)
        for j, count in common.items():
            if count >= share * min(len(own), len(sets[j])):
                _join(parent, i, j)
    return [_root(parent, i) for i in range(len(pieces))]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _join(parent: list[int], i: int, j: int) -> None:
    low, high = sorted((_root(parent, i), _root(parent, j)))
    parent[high] = low
