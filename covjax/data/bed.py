"""Regions of a genome from a BED file."""

import dataclasses
from pathlib import Path

from covjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Region:
    """Half-open interval counted from 0; `strand` is `-` where the file says so, else `+`; `name` may be empty."""

    chromosome: str
    start: int
    end: int
    name: str = ""
    strand: str = "+"
    line: int = 0

    def refuse_outside(self, path: str | Path, genome: str | Path, length: int | None) -> None:
        """Raise InputError for a chromosome that `genome` lacks (length None), an empty region, one beyond its end."""
        if length is None:
            raise InputError(f"{path}: line {self.line}: chromosome {self.chromosome!r} is not in {genome}")
        if not 0 <= self.start < self.end <= length:
            raise InputError(
                f"{path}: line {self.line}: window {self.start}-{self.end} is empty or outside {self.chromosome!r} of "
                f"{length} letters"
            )


def parse_bed(path: str | Path, text: str) -> list[Region]:
    """Regions in the order of the file; comments, `track` and `browser` lines are skipped.

    Raises InputError naming the line that has not chrom, start and end.
    """
    regions = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.split("\t")
        if len(fields) < 3 or not (fields[1].isdigit() and fields[2].isdigit()):
            raise InputError(f"{path}: line {number}: not chrom, start, end separated by tabs: {line[:60]!r}")
        name = fields[3] if len(fields) > 3 and fields[3] != "." else ""
        strand = "-" if len(fields) > 5 and fields[5] == "-" else "+"
        regions.append(Region(fields[0], int(fields[1]), int(fields[2]), name, strand, number))
    return regions
