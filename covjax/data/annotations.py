"""Named stretches of sequences from BED, GFF or a table: annotations of single tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from covjax.data.genome import read_bed
from covjax.data.text import Report, Skipped, read_delimited, text_lines, warn, whole_number
from covjax.errors import InputError, shown

BED, GFF, TABLES = (".bed",), (".gff", ".gff3", ".gtf"), (".tsv", ".csv")
COLUMNS = ("id", "start", "end", "name")


class Stretch(NamedTuple):
    """A part of a sequence, half-open from 0, and what it is."""

    sequence: str
    start: int
    end: int
    name: str


def read_annotations(path: str | Path, report: Report = warn) -> list[Stretch]:
    """The stretches of a file, in file order; the suffix gives the format (each also as .gz).

    The first column is a sequence's id, and places count within that sequence. BED: start and end from 0, half-open,
    the name in column 4. GFF and GTF: from 1, both ends included, the name in column 3, the type. TSV and CSV: columns
    id, start, end and name, places as in BED.

    Odd lines are left out and given to `report` in one summary. Raises InputError for another suffix, a file that
    cannot be read, a missing column, no stretch at all, and too many odd lines (see `Skipped`).
    """
    path = Path(path)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    read = next((read for kinds, read in ((BED, _bed), (GFF, _gff), (TABLES, _table)) if suffix in kinds), None)
    if read is None:
        kinds = ", ".join((*BED, *GFF, *TABLES))
        raise InputError(f"annotations: {path}: suffix {suffix!r} is not one of {kinds} (each also .gz)")
    skipped, stretches = Skipped(path, "annotations"), []
    for line, stretch in read(path, report):
        if not 0 <= stretch.start < stretch.end:
            skipped.add(f"not a start below an end: {shown(stretch.sequence, 40)}", line)
        elif not stretch.name or not stretch.sequence:
            skipped.add("no name or no id of a sequence", line)
        else:
            stretches.append(stretch)
    skipped.close(len(stretches), report)
    if not stretches:
        raise InputError(f"annotations: {path}: no annotation in it")
    return stretches


def _bed(path: Path, report: Report) -> Iterator[tuple[int, Stretch]]:
    for region in read_bed(path, report):
        yield region.line, Stretch(region.chromosome, region.start, region.end, region.name)


def _gff(path: Path, report: Report) -> Iterator[tuple[int, Stretch]]:
    for number, line in text_lines(path):
        if line.startswith("##FASTA"):
            return
        if line.startswith("#") or not line.strip():
            continue
        name, _, kind, start, end = (*line.split("\t"), *("",) * 5)[:5]
        yield number, _stretch(name, start, end, kind, 1)


def _table(path: Path, report: Report) -> Iterator[tuple[int, Stretch]]:
    header, rows, _ = read_delimited(path)
    names = [cell.strip().casefold() for cell in header.cells]
    if absent := [name for name in COLUMNS if names.count(name) != 1]:
        listing = shown(", ".join(header.cells), 100)
        raise InputError(f"annotations: {path}: {absent[0]!r} is not one of its columns, {listing}")
    for row in rows:
        sequence, start, end, name = (row.cells[names.index(column)] for column in COLUMNS)
        yield row.line, _stretch(sequence, start, end, name, 0)


def _stretch(sequence: str, start: str, end: str, name: str, first: int) -> Stretch:
    """Places counted from `first`; what is no number becomes an empty stretch, which is left out."""
    low, high = whole_number(start.strip()), whole_number(end.strip())
    low, high = (0, 0) if low is None or high is None else (low - first, high)
    return Stretch(sequence.strip(), low, high, name.strip())
