"""Genomes in FASTA, places in BED, and blocks of neighbouring places."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from covjax.data.text import NAMED, Report, Skipped, stream_fasta, text_lines, warn, whole_number
from covjax.errors import InputError, shown


def stream_chromosomes(genome: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (name, sequence) of every chromosome; the name is its header up to the first white space.

    Raises InputError as `stream_fasta` does and, naming both lines, for two chromosomes of one name.
    """
    lines: dict[str, int] = {}
    for line, header, sequence in stream_fasta(genome):
        name = (header.split() or [""])[0]
        if name in lines:
            raise InputError(f"{genome}: line {line}: {shown(name)} is already in line {lines[name]}")
        lines[name] = line
        yield name, sequence


def report_absent(
    path: str | Path, genome: str | Path, lines: Mapping[str, Sequence[int]], present: Sequence[str], report: Report
) -> None:
    """Report how many records of `path` are on chromosomes that the genome lacks.

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


@dataclasses.dataclass(frozen=True)
class Region:
    """Half-open interval counted from 0; `strand` is `-` if the file says so, else `+`; `name` may be empty."""

    chromosome: str
    start: int
    end: int
    name: str = ""
    strand: str = "+"
    line: int = 0

    def fault(self, length: int) -> str:
        """Why this is not a region of its chromosome of `length` letters (empty, or beyond its end), or nothing."""
        if 0 <= self.start < self.end <= length:
            return ""
        place = f"{shown(self.chromosome)} of {length} letters"
        return f"window {self.start}-{self.end} is empty or outside {place}"


def read_bed(path: str | Path, report: Report = warn) -> list[Region]:
    """Regions of a BED file of three columns or more, separated by tabs, in its order.

    Comments, `track` and `browser` lines are passed over. Lines that have not chrom, start and end as whole numbers of
    0 or more, or another strand than `+`, `-` and `.`, are left out and given to `report` in one summary.

    Raises InputError for a file that cannot be read as text and for too many such lines (see `Skipped`).
    """
    skipped = Skipped(path, "regions")
    regions = list(_regions(path, skipped))
    skipped.close(len(regions), report)
    return regions


def _regions(path: str | Path, skipped: Skipped) -> Iterator[Region]:
    for number, line in text_lines(path):
        fields = line.split("\t")
        if not line.strip() or line.startswith("#"):
            continue
        chromosome, start, end, name, _, strand = (*fields[:6], *("",) * (6 - len(fields)))
        first, last = whole_number(start), whole_number(end)
        if line.split(None, 1)[0] in ("track", "browser") and first is None:
            continue
        if not chromosome or first is None or last is None:
            skipped.add(f"not chrom, start, end separated by tabs: {shown(line, 60)}", number)
        elif strand.strip() not in ("", ".", "+", "-"):
            skipped.add(f"strand {shown(strand, 60)} is not + or -", number)
        else:
            name, strand = name.strip(), strand.strip()
            yield Region(chromosome, first, last, "" if name == "." else name, "-" if strand == "-" else "+", number)


Interval = tuple[str, int, int]  # chromosome, start, end; half-open from 0


def block_name(chromosome: str, position: int, size: int) -> str:
    """The block of `size` nucleotides that holds a position, as `chrom:start-end`; InputError for size < 1."""
    if size < 1:
        raise InputError(f"block: {size} must be >= 1")
    start = position // size * size
    return f"{chromosome}:{start}-{start + size}"


def overlap_blocks(intervals: Sequence[Interval], size: int) -> list[str]:
    """Group of every interval: the block in which its run of overlapping intervals begins.

    Intervals of one group may reach over the block's end, but none overlaps one of another group: no nucleotide is in
    two groups.
    """
    groups = [""] * len(intervals)
    chromosome, reach, group = "", 0, ""
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i]):
        name, start, end = intervals[i]
        if name != chromosome or start >= reach:
            chromosome, reach, group = name, end, block_name(name, start, size)
        reach = max(reach, end)
        groups[i] = group
    return groups
