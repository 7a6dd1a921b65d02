"""What every source is made of: rows, without the copies a published table may hold."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from covjax.errors import InputError


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
