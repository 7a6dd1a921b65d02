"""Rows of a data set: read, grouped with their relatives, and drawn into splits of given sizes."""

import contextlib
import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from covjax.data.letters import reverse_complement
from covjax.data.splits import SPLITS
from covjax.data.text import read_delimited
from covjax.errors import InputError, shown


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


Sizes = tuple[int, int, int]  # rows of train, validation, test


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the standard table; `answer` is its label, its labels or its targets as the column holds them.

    `split` is empty until `draw`; a row that the publisher holds out enters with "test". `sequence` is empty where a
    source has tokens in place of sequences. `covariates` are numbers that stand in columns of their own.
    """

    id: str
    sequence: str
    answer: str
    group: str
    split: str = ""
    covariates: tuple[float, ...] = ()


def shared_file(shared: Path, *parts: str) -> Path:
    """Path of a file of the real data; InputError where it is absent."""
    path = shared.joinpath("data", *parts)
    if not path.is_file():
        raise InputError(f"{path}: no such file; set COVJAX_SHARED to the folder with the real data")
    return path


@contextlib.contextmanager
def as_published(path: Path, line: int) -> Iterator[None]:
    """Take what a line of a published file says; InputError, naming the line, where it says something else."""
    try:
        yield
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: line {line}: not as published: {shown(str(error), 150)}") from None


def read_records(path: Path, delimiter: str, columns: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Line and the named columns of every row of a delimited file; InputError as `read_delimited` and for a column."""
    header, rows, _ = read_delimited(path, delimiter)
    with as_published(path, header.line):
        places = [header.cells.index(name) for name in columns]
    return [(row.line, tuple(row.cells[place] for place in places)) for row in rows]


def without_copies(rows: Sequence[Row]) -> list[Row]:
    """Keep the first of identical sequences, none where their answers differ; copies across given splits stay."""
    answers: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        answers[row.split, row.sequence].add(row.answer)
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        if len(answers[row.split, row.sequence]) == 1:
            first.setdefault((row.split, row.sequence), row)
    disagreeing = sum(len(found) > 1 for found in answers.values())
    if len(first) < len(rows):
        print(
            f"left out: {len(rows) - len(first)} copies of a sequence, among them all of {disagreeing} with two answers"
        )
    return list(first.values())


def with_groups(rows: Sequence[Row], numbers: Sequence[int]) -> list[Row]:
    """Rows whose group is the id of the group's first row."""
    return [dataclasses.replace(row, group=rows[number].id) for row, number in zip(rows, numbers, strict=True)]


def draw(rows: Sequence[Row], sizes: Sizes, seed: int = 0, largest: float | None = 0.1) -> list[Row]:
    """Rows with their splits, in the order they came in; what no split has room for is left out.

    Groups are shuffled (`seed`) and dealt one by one: test first, then validation, the rest to train, each until it is
    full; of the group that overfills a split the surplus rows are left out, so no group ever stands on two sides. No
    group gives more than the share `largest` of a split's rows (None: no such bound): a larger one is passed over for
    test and validation and gives a seeded sample of its rows to train. A source with fewer rows than asked for is
    divided in the same proportions. Where some rows are held out by the publisher (split "test"), test is drawn from
    these alone, and the other rows of their groups are left out.

    Raises InputError for sizes < 1 and where a split stays empty.
    """
    if min(sizes) < 1:
        raise InputError(f"sizes: {sizes} must be three numbers >= 1")
    rng = np.random.default_rng(seed)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[row.group].append(i)
    held_out = {row.group for row in rows if row.split}
    for name in held_out:
        members[name] = [i for i in members[name] if rows[i].split]
    names = sorted(members)
    shuffled = {names[j]: rng.permutation(members[names[j]]).tolist() for j in rng.permutation(len(names))}
    inside = [name for name in shuffled if name not in held_out]
    room = dict(zip(SPLITS, sizes))
    if held_out:
        pools = {"test": [name for name in shuffled if name in held_out], "validation": inside, "train": inside}
        room = _scaled(room, ("train", "validation"), [len(shuffled[name]) for name in inside], largest)
    else:
        pools = {"test": inside, "validation": inside, "train": inside}
        room = _scaled(room, SPLITS, [len(shuffled[name]) for name in inside], largest)
    split: dict[int, str] = {}
    taken: set[str] = set()
    for side in ("test", "validation", "train"):
        most, free = _most(room[side], largest), room[side]
        for name in pools[side]:
            if name in taken or (side != "train" and largest is not None and len(shuffled[name]) > most):
                continue
            if not free:
                break
            chosen = shuffled[name][: min(most, free)]
            split |= dict.fromkeys(chosen, side)
            free -= len(chosen)
            taken.add(name)
        if free == room[side]:
            raise InputError(f"{len(rows)} rows in {len(names)} groups leave the split {side!r} empty")
    return [dataclasses.replace(rows[i], split=split[i]) for i in sorted(split)]


def _most(room: int, largest: float | None) -> int:
    return room if largest is None else max(1, round(largest * room))


def _scaled(
    room: dict[str, int], sides: tuple[str, ...], group_sizes: list[int], largest: float | None
) -> dict[str, int]:
    """Rows a split may have: those asked for, or in the same proportions as many as there are."""
    available = sum(min(size, _most(room["train"], largest)) for size in group_sizes)
    factor = min(1.0, available / sum(room[side] for side in sides))
    return room | {side: max(1, round(factor * room[side])) for side in sides}
