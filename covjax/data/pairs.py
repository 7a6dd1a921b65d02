"""Pairs of sequences: how pairs are pooled, groups of pairs, and reading pairs without labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covjax.data.dataset import Dataset, match_columns, unit
from covjax.data.near_copies import near_copies
from covjax.data.sequences import FASTA, TABLES, WORKBOOKS, own_ids, read_filled
from covjax.data.spreadsheets import read_columns
from covjax.data.text import Row, plain_suffix
from covjax.errors import InputError, shown
from covjax.jobs.disk import cell_text

KINDS = ("difference", "both")
FEW = 0.1  # of the positions: pairs of equal lengths that differ in no more are a sequence and its variant


def choose_kind(first: Sequence[str], second: Sequence[str], kind: str = "auto") -> str:
    """How a pair is pooled: `kind`, or by rule "difference" (aligned tokens) or "both" (each sequence's pool).

    The rule: "difference" where both sequences of every pair have one length, are not equal, and differ in at most a
    tenth of the positions (one position is always few enough); "both" elsewhere.
    """
    if kind != "auto":
        return kind

    def is_variant(a: str, b: str) -> bool:
        return len(a) == len(b) and 1 <= sum(x != y for x, y in zip(a, b)) <= max(1, FEW * len(a))

    return "difference" if all(map(is_variant, first, second)) else "both"


def check_kind(kind: str, first: Sequence[str], second: Sequence[str], place: Callable[[int], str]) -> None:
    """Refuse pairs whose tokens have no difference; `place` names the i-th pair in the InputError."""
    if kind != "difference":
        return
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if len(a) != len(b):
            raise InputError(
                f"{place(i)}: pair difference needs sequences of one length, but sequence has {len(a):,} letters and "
                f"sequence_b {len(b):,}; --pair both pools each sequence by itself, or leave such pairs out"
            )
        if a == b:
            raise InputError(
                f"{place(i)}: sequence and sequence_b are equal, so there is no difference to pool; leave such pairs "
                "out, or --pair both"
            )


def pair_names(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """One text per pair, the same whichever sequence comes first."""
    return tuple("\n".join(sorted(pair)) for pair in zip(first, second, strict=True))


class Grouping(NamedTuple):
    """Groups of pairs, how they were made, the warnings, and whether all pairs are of one family."""

    groups: Int[np.ndarray, "pairs"]
    text: str
    warnings: tuple[str, ...] = ()
    one_family: bool = False


def group_pairs(first: Sequence[str], second: Sequence[str], kind: str = "") -> Grouping:
    """Groups of pairs: the first of three rules under which no group holds more than half of the pairs.

    1. Pairs that have a sequence, or near copies (`near_copies`), in common, along chains too.
    2. Pairs of which each sequence is a near copy of one of the other pair's, in either order.
    3. Equal pairs, in either order: one family. It stands also where none of the three does.
    """
    count = len(first)
    copies = near_copies([*first, *second], kind)
    links = coo_array((np.ones(2 * count), (np.tile(np.arange(count), 2), count + copies)), (3 * count, 3 * count))
    joined = _numbered(connected_components(links, directed=False)[1][:count].tolist())
    alike = _numbered([tuple(sorted(pair)) for pair in zip(copies[:count].tolist(), copies[count:].tolist())])
    equal = _numbered(pair_names(first, second))
    largest = [int(np.bincount(groups).max()) for groups in (joined, alike, equal)]
    head = "no column 'group': "
    size = "{:,} groups of " + f"{count:,} pairs, the largest of " + "{:,}"
    if 2 * largest[0] <= count:
        text = f"{head}pairs with a sequence or near copies (over 90 % similar) in common are grouped: "
        return Grouping(joined, text + size.format(joined.max() + 1, largest[0]))
    chain = f"{largest[0]:,} of {count:,} pairs hang together through sequences that they share (or near copies)"
    if 2 * largest[1] <= count:
        text = f"{head}pairs of which both sequences are near copies, in either order, are grouped: "
        warning = (
            f"{chain}, so only pairs of which both are near copies share a group, and a sequence may be on both "
            "sides of the split; give a column 'split' or --group-column to hold sequences back"
        )
        return Grouping(alike, text + size.format(alike.max() + 1, largest[1]), (warning,))
    warning = (
        f"within one family: {largest[1]:,} of {count:,} pairs are near copies of each other (over 90 % similar), so "
        "only equal ones, in either order, share a group, and the result holds for relatives of the training pairs "
        "alone; give --group-column (mutated position, clone) to hold back what is new"
    )
    text = f"{head}only equal pairs, in either order, share a group (within one family)"
    return Grouping(equal, text, (warning,), True)


def seen_note(data: Dataset) -> str:
    """How many test pairs have both, one or none of their sequences in the training pairs (Park and Marcotte 2012)."""
    train, test = data.rows("train").tolist(), data.rows("test").tolist()
    known = {data.sequences[i] for i in train} | {data.partners[i] for i in train}
    counts = np.bincount([(data.sequences[i] in known) + (data.partners[i] in known) for i in test], minlength=3)
    none, one, both = counts.tolist()
    return f"of {len(test):,} test pairs {both:,} have both sequences in training pairs, {one:,} one, {none:,} none"


def _numbered(names: Sequence) -> Int[np.ndarray, "pairs"]:
    number: dict = {}
    return np.array([number.setdefault(name, len(number)) for name in names], int)


def read_pairs(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Ids, sequences and second sequences of a table without labels, under the column names of `read_table`.

    Raises InputError for FASTA, BED and plain text, which have one sequence a record, and like
    `covjax.data.sequences.read_sequences`.
    """
    path = Path(path)
    suffix = plain_suffix(path)
    if suffix not in (*TABLES, *WORKBOOKS, ".parquet"):
        kind = "FASTA" if suffix in FASTA else f"a file {suffix or 'without a suffix'}"
        raise InputError(
            f"{path}: {kind} has one sequence a record, and pairs are needed; give a table (CSV, TSV, .xlsx, Parquet) "
            "with the columns sequence and sequence_b"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if suffix == ".parquet":
        columns = read_columns(path, "sequence", "id", "sequence_b")
        if "sequence_b" not in columns:
            raise InputError(f"{path}: missing column 'sequence_b', the second sequence of every pair")
        ids = columns.get("id", [None] * len(columns["sequence"]))
        cells = zip(ids, columns["sequence"], columns["sequence_b"], strict=True)
        rows = [(number, name or "", a or "", b or "") for number, (name, a, b) in enumerate(cells, 1)]
    else:
        table = read_filled(path, lambda header: _columns(path, header).values())
        place = _columns(path, table.header)
        rows = [
            (row.line, name, cell_text(row.cells[place["sequence"]]), cell_text(row.cells[place["sequence_b"]]))
            for name, row in zip(own_ids(table, place), table.rows)
        ]
    lines: dict[str, int] = {}
    where = unit(path)
    for line, name, a, b in rows:
        name = name.strip() or f"row{line}"
        if name in lines:
            raise InputError(
                f"{path}: {where} {line}: id {shown(name)} is already in {where} {lines[name]}; make ids different"
            )
        for role, sequence in (("sequence", a), ("sequence_b", b)):
            if not sequence.strip():
                raise InputError(f"{path}: {where} {line}: the {role} of {shown(name)} is empty")
        lines[name] = line
    if not lines:
        raise InputError(f"{path}: no pair in it")
    return tuple(lines), tuple(row[2].strip() for row in rows), tuple(row[3].strip() for row in rows)


def _columns(path: Path, header: Row) -> dict[str, int]:
    return match_columns(path, header, {}, ("sequence", "sequence_b"), ("id",))
