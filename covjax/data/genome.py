"""A genome in FASTA, chromosome by chromosome, and the records of an annotation on chromosomes that it lacks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from covjax.data.fasta import stream_fasta
from covjax.data.skipped import NAMED, Report
from covjax.errors import InputError, shown


def stream_chromosomes(genome: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (name, sequence) of every chromosome; the name is its header up to the first white space.

    Raises InputError as `stream_fasta` does and, naming both lines, for two chromosomes of one name.
    """
    lines: dict[str, int] = {}
    for line, header, sequence in stream_fasta(genome):
        name = (header.split() or [""])[0]
        if name in lines:
            raise InputError(f"{genome}: line {line}: {shown(name)} stands already in line {lines[name]}")
        lines[name] = line
        yield name, sequence


def report_absent(
    path: str | Path, genome: str | Path, lines: Mapping[str, Sequence[int]], present: Sequence[str], report: Report
) -> None:
    """Report how many records of `path` stand on chromosomes that the genome lacks.

    lines: of every chromosome that `path` names, its records by their line (0: unknown), in the order of the file.
    present: the chromosomes of the genome.

    Raises InputError where the genome has none of them, with what it has instead.
    """
    known = set(present)
    absent = [name for name in lines if name not in known]
    if not absent:
        return
    if len(absent) < len(lines):
        total = sum(len(lines[name]) for name in absent)
        some = ", ".join(shown(name, 40) for name in absent[:NAMED])
        report(f"{path}: left out {total:,} on {len(absent):,} chromosomes that are not in {genome}: {some}")
        return
    first = lines[absent[0]][0]
    place = f"line {first}: " if first else ""
    bare = {name.removeprefix("chr") for name in present}
    hint = "; they differ by 'chr': rename them" if any(name.removeprefix("chr") in bare for name in absent) else ""
    has = ", ".join(shown(name, 40) for name in present[:NAMED]) or "no record"
    raise InputError(
        f"{path}: {place}chromosome {shown(absent[0], 40)} is not in {genome}, nor is any other; it has {has}{hint}"
    )
