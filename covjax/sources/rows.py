"""What every source is made of: rows, without the copies a published table may hold."""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from covjax.data.text import read_delimited
from covjax.errors import InputError, shown


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the standard table; `answer` is its label, its labels or its targets as the column holds them.

    `split` is empty until `draw`; a row that the publisher holds out enters with "test".
    """

    id: str
    sequence: str
    answer: str
    group: str
    split: str = ""


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
