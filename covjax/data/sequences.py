"""Unlabelled sequences from FASTA, CSV, TSV, Parquet, plain text, or BED windows of a FASTA genome."""

import csv
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from covjax.data.dataset import match_columns, tidy_sequences
from covjax.data.genome import read_bed, report_absent, stream_chromosomes
from covjax.data.letters import AMINO_ACIDS, check_encoding, check_lengths, check_letters, reverse_complement
from covjax.data.spreadsheets import Select, read_columns, read_spreadsheet
from covjax.data.text import (
    DELIMITERS,
    Row,
    Skipped,
    Table,
    filled_rows,
    plain_suffix,
    read_delimited,
    stream_fasta,
    text_lines,
    warn,
)
from covjax.errors import InputError, shown
from covjax.jobs.disk import cell_text, refuse_address
from covjax.notes import note

TABLES, WORKBOOKS = (".csv", ".tsv", ".tab"), (".xlsx", ".xlsm")
FASTA = (".fasta", ".fa", ".faa", ".fna", ".ffn")
SUFFIXES = (*FASTA, *TABLES, ".txt", ".bed", ".parquet", *WORKBOOKS)


def read_sequences(path: str | Path, genome: str | Path | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and sequences of a file, each text format also as `.gz`; letters are not changed.

    FASTA: the id is the header up to the first white space. CSV, TSV, `.xlsx`: column `sequence`, optional `id`, under
    the names and with the separators that `covjax.data.table.read_table` knows; Parquet: columns of exactly these
    names. Text: one sequence a line, unless its first line is a FASTA header or the header of a table (which is said).
    BED: windows of `genome` (FASTA), half-open from 0, the reverse complement where column 6 is `-`; the id is column 4
    or `chrom:start-end`, followed by the strand where the file has that place on both. Without an id, `rowN` with N the
    line, or the row of a file without lines (of a sheet as it stands there, of Parquet from 1), as in `read_table`.

    Odd lines of a BED file, and its windows outside of the genome, are left out; one line on standard error says how
    many and names the first. Rows of empty cells alone are passed over and a workbook's other sheets not read; both is
    said.

    Raises InputError naming file and line for an unknown suffix, no sequence at all, an empty sequence, a duplicate id,
    a missing column, a BED file that has little in common with the genome, and BED without `genome`.
    """
    refuse_address("data", path)
    path = Path(path)
    suffix = plain_suffix(path)
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: suffix {suffix!r} is not one of {', '.join(SUFFIXES)} (each text format also .gz)")
    if (genome is not None) != (suffix == ".bed"):
        raise InputError(f"genome: {genome!r} with {path.name}; a FASTA genome goes with a .bed file and only there")
    if not os.path.exists(path):  # of a path too long Path.exists raises
        raise InputError(f"{path}: no such file")
    if suffix == ".bed":
        assert genome is not None
        entries = _bed(path, genome)
    elif suffix == ".parquet":
        entries = _parquet(path)
    elif suffix in (*TABLES, *WORKBOOKS):
        entries = _table(path)
    elif suffix == ".txt":
        entries = _text(path)
    else:
        entries = _fasta(path)
    seen: dict[str, int] = {}
    sequences = []
    place = "row" if suffix in (".parquet", *WORKBOOKS) else "line"
    for line, name, sequence in entries:
        sequence = sequence.strip()
        if not sequence:
            raise InputError(f"{path}: {place} {line}: the sequence of {shown(name)} is empty")
        if name in seen:
            raise InputError(f"{path}: {place} {line}: id {shown(name)} is already in {place} {seen[name]}")
        seen[name] = line
        sequences.append(sequence)
    if not seen:
        raise InputError(f"{path}: no sequence in it")
    return tuple(seen), tuple(sequences)


def _fasta(path: Path) -> Iterator[tuple[int, str, str]]:
    for line, header, sequence in stream_fasta(path):
        yield line, (header.split() or [f"row{line}"])[0], sequence


def _text(path: Path) -> Iterator[tuple[int, str, str]]:
    lines = (line for _, line in text_lines(path) if line.strip())
    first, second = next(lines, ""), next(lines, "")
    lines.close()
    if first.startswith(">"):
        return _fasta(path)
    cells, below = max(
        ((_split(first, mark), _split(second, mark)) for mark in DELIMITERS), key=lambda each: len(each[0])
    )
    says_mark = re.match(r'(?i)"?sep=[,;\t]', first) is not None
    has_name = _names_sequences(path, cells)
    is_table = says_mark or (has_name and len(cells) == len(below) > 1)
    is_head = has_name and not is_table and len(cells) == 1
    if is_table or is_head:
        what = "it is read as one" if is_table else "the lines below it are its sequences"
        warn(f"{path}: the first line is the header of a table ({shown(first, 60)}), so {what}")
    if is_table:
        return _table(path)
    filled = ((number, f"row{number}", line) for number, line in text_lines(path) if line.strip())
    return itertools.islice(filled, int(is_head), None)


def _names_sequences(path: Path, cells: tuple[str, ...]) -> bool:
    """Whether these are a header with a column of sequences; "DNA" alone may be a peptide."""
    word = cells[0].strip()
    if len(cells) == 1 and word.isupper() and AMINO_ACIDS.issuperset(word):
        return False
    try:
        return bool(_columns(path, Row(1, cells)))
    except InputError:
        return False


def _split(line: str, mark: str) -> tuple[str, ...]:
    return tuple(next(csv.reader([line], delimiter=mark), [])) or ("",)


def _columns(path: Path, header: Row) -> dict[str, int]:
    return match_columns(path, header, {}, ("sequence",), ("id",))


def _table(path: Path) -> Iterator[tuple[int, str, str]]:
    table = read_filled(path, lambda header: _columns(path, header).values())
    columns = _columns(path, table.header)
    for name, row in zip(own_ids(table, columns), table.rows):
        yield row.line, name or f"row{row.line}", cell_text(row.cells[columns["sequence"]])


def read_filled(path: Path, select: Select) -> Table:
    """A workbook, or else delimited text, without its empty rows; what is not read of it is said."""
    notes: list[str] = []
    is_book = plain_suffix(path) in WORKBOOKS
    table = read_spreadsheet(path, select, notes) if is_book else read_delimited(path)
    table = table._replace(rows=filled_rows(table.rows, notes))
    _tell(path, notes)
    return table


def _tell(source: str | Path, texts: Iterable[str]) -> None:
    for text in texts:
        note(f"note: {source}: {text}")


def own_ids(table: Table, columns: Mapping[str, int]) -> list[str]:
    """The ids that a table gives its rows, empty where it gives none; as `read_table` takes them."""
    header, rows = table.header, table.rows
    if "id" not in columns:
        return [""] * len(rows)
    names = [cell_text(row.cells[columns["id"]]).strip() for row in rows]
    if header.cells[columns["id"]].strip().casefold() != "id":  # a guess
        given = [name for name in names if name]
        names = names if len(set(given)) == len(given) else [""] * len(rows)
    return names


def _parquet(path: Path) -> Iterator[tuple[int, str, str]]:
    columns = read_columns(path, "sequence", "id")
    ids = columns.get("id", [None] * len(columns["sequence"]))
    for number, (name, sequence) in enumerate(zip(ids, columns["sequence"], strict=True), 1):
        yield number, f"row{number}" if name is None else name, sequence or ""


def _bed(path: Path, genome: str | Path) -> Iterator[tuple[int, str, str]]:
    regions = read_bed(path)
    lines = defaultdict[str, list[int]](list)
    strands = defaultdict[str, set[str]](set)
    for region in regions:
        lines[region.chromosome].append(region.line)
        strands[f"{region.chromosome}:{region.start}-{region.end}"].add(region.strand)
    chromosomes, present = {}, []
    for name, letters in stream_chromosomes(genome):
        present.append(name)
        if name in lines:
            chromosomes[name] = letters
    report_absent(path, genome, lines, present, warn)
    skipped, sound = Skipped(path, "regions"), 0
    for region in regions:
        if (chromosome := chromosomes.get(region.chromosome)) is None:
            continue
        if fault := region.fault(len(chromosome)):
            skipped.add(fault, region.line)
            continue
        sound += 1
        sequence = chromosome[region.start : region.end]
        if region.strand == "-":
            sequence = reverse_complement(sequence)
        place = f"{region.chromosome}:{region.start}-{region.end}"
        place += f"({region.strand})" * (len(strands[place]) > 1)
        yield region.line, region.name or place, sequence
    skipped.close(sound, warn)


def read_tidy(data: str, max_length: int) -> tuple[tuple[str, ...], list[str]]:
    """Ids and sequences of a file, tidied as a comparison reads them; what was changed is said."""
    ids, sequences = read_sequences(data)
    return ids, tidy(data, ids, sequences, max_length)


def tidy(
    data: str, ids: Sequence[str], sequences: Sequence[str], max_length: int, column: str = "sequence"
) -> list[str]:
    """The sequences of a file's column, tidied; what was changed is said. InputError for one that is too long."""
    check_lengths(sequences, max_length, lambda i: f"{data}: {shown(ids[i])}")
    changes: list[str] = []
    out = tidy_sequences(sequences, [f"{data}: {shown(name, 60)}" for name in ids], column, changes)
    _tell(data, changes)
    return list(out)


def check_readable(data: str, ids: Sequence[str], sequences: Sequence[str], encoder: Any, force: bool) -> None:
    """Refuse sequences that the encoder cannot read, by name, before hours of work."""
    check_letters(data, sequences, encoder, force)
    check_encoding(sequences, encoder, lambda i: f"{data}: {shown(ids[i])}")
