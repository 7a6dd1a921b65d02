"""Regions of a genome from a BED file."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from covjax.data.skipped import Report, Skipped, warn
from covjax.data.text import text_lines, whole_number
from covjax.errors import shown


@dataclasses.dataclass(frozen=True)
class Region:
    """Half-open interval counted from 0; `strand` is `-` where the file says so, else `+`; `name` may be empty."""

    chromosome: str
    start: int
    end: int
    name: str = ""
    strand: str = "+"
    line: int = 0

    def fault(self, length: int) -> str:
        """Why this is no region of its chromosome of `length` letters, or nothing: empty, or beyond its end."""
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
