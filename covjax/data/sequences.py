"""Unlabelled sequences from FASTA, CSV, TSV, Parquet, plain text, or BED windows of a FASTA genome."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from covjax.data.bed import parse_bed
from covjax.data.fasta import stream_fasta
from covjax.data.nucleotides import reverse_complement
from covjax.data.text import read_text
from covjax.errors import InputError
from covjax.extras import need

csv.field_size_limit(2**31 - 1)  # the module's own limit of 131,072 letters is shorter than many a gene
SUFFIXES = (".fasta", ".fa", ".faa", ".fna", ".csv", ".tsv", ".txt", ".bed", ".parquet")


def read_sequences(path: str | Path, genome: str | Path | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and sequences of a file, each text format also as `.gz`; letters are left as they are.

    FASTA: the id is the header up to the first space. CSV, TSV, Parquet: column `sequence`, optional `id`. Text: one
    sequence a line. BED: windows of `genome` (FASTA), half-open from 0, the reverse complement where column 6 is `-`;
    the id is column 4 or `chrom:start-end`. Without an id, `rowN` with N the line or row.

    Raises InputError naming file and line for an unknown suffix, no sequence at all, an empty sequence, a duplicate id,
    a missing column, a window outside its chromosome, and BED without `genome`.
    """
    path = Path(path)
    suffix = next((s for s in reversed(path.suffixes) if s.lower() != ".gz"), "").lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: suffix {suffix!r} is not one of {', '.join(SUFFIXES)} (each text format also .gz)")
    if (genome is not None) != (suffix == ".bed"):
        raise InputError(f"genome: {genome!r} with {path.name}; a FASTA genome goes with a .bed file and only there")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if suffix == ".bed":
        assert genome is not None
        entries = _bed(path, genome)
    elif suffix == ".parquet":
        entries = _parquet(path)
    elif suffix in (".csv", ".tsv"):
        entries = _delimited(path, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".txt":
        entries = ((n, f"row{n}", line) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip())
    else:
        entries = _fasta(path)
    seen: dict[str, int] = {}
    sequences = []
    for line, name, sequence in entries:
        sequence = sequence.strip()
        if not sequence:
            raise InputError(f"{path}: line {line}: the sequence of {name!r} is empty")
        if name in seen:
            raise InputError(f"{path}: line {line}: id {name!r} stands already in line {seen[name]}")
        seen[name] = line
        sequences.append(sequence)
    if not seen:
        raise InputError(f"{path}: no sequence in it")
    return tuple(seen), tuple(sequences)


def _fasta(path: Path) -> Iterator[tuple[int, str, str]]:
    for line, header, sequence in stream_fasta(path):
        yield line, (header.split() or [f"row{line}"])[0], sequence


def _delimited(path: Path, delimiter: str) -> Iterator[tuple[int, str, str]]:
    reader = csv.DictReader(io.StringIO(read_text(path)), delimiter=delimiter)
    if "sequence" not in (reader.fieldnames or ()):
        raise InputError(f"{path}: missing column 'sequence'; found {', '.join(reader.fieldnames or ())}")
    for number, row in enumerate(reader, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number}: not {len(reader.fieldnames or ())} fields as in the header")
        yield number, row.get("id") or f"row{number}", row["sequence"]


def _parquet(path: Path) -> Iterator[tuple[int, str, str]]:
    parquet = need("pyarrow.parquet", "parquet", f"{path}: reading Parquet")
    table = parquet.read_table(path)
    if "sequence" not in table.column_names:
        raise InputError(f"{path}: missing column 'sequence'; found {', '.join(table.column_names)}")
    sequences = table["sequence"].to_pylist()
    ids = table["id"].to_pylist() if "id" in table.column_names else [None] * len(sequences)
    for number, (name, sequence) in enumerate(zip(ids, sequences), 1):
        yield number, f"row{number}" if name is None else str(name), sequence or ""


def _bed(path: Path, genome: str | Path) -> Iterator[tuple[int, str, str]]:
    chromosomes = dict(zip(*read_sequences(genome)))
    for region in parse_bed(path, read_text(path)):
        chromosome = chromosomes.get(region.chromosome)
        region.refuse_outside(path, genome, None if chromosome is None else len(chromosome))
        assert chromosome is not None
        sequence = chromosome[region.start : region.end]
        if region.strand == "-":
            sequence = reverse_complement(sequence)
        yield region.line, region.name or f"{region.chromosome}:{region.start}-{region.end}", sequence
