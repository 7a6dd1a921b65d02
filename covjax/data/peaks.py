"""Peaks of tracks along a genome: a BED or narrowPeak file per track, or one table of many tracks."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from covjax.data.genome import read_bed
from covjax.data.text import Report, Skipped, read_delimited, text_lines, warn, whole_number
from covjax.errors import InputError, shown

BED = (".bed", ".narrowpeak", ".broadpeak")  # also .gz
TRACK_COLUMNS = ("track", "protein", "factor")  # of a table of many tracks, beside chrom and position


@dataclasses.dataclass(frozen=True)
class Peaks:
    """One track's peaks: of every chromosome their places, ascending, counted from 0; of one place perhaps several."""

    name: str
    path: str
    places: Mapping[str, Int[np.ndarray, "peaks"]]

    def values(self, chromosome: str, start: int, end: int) -> Float[np.ndarray, "{end-start}"]:
        """How many peaks every nucleotide of a stretch has, half-open from 0."""
        places = self.places.get(chromosome, np.empty(0, int))
        low, high = np.searchsorted(places, [start, end])
        return np.bincount(places[low:high] - start, minlength=end - start).astype(np.float64)


def read_peaks(path: str | Path, report: Report = warn) -> list[Peaks]:
    """The tracks of a file: one of a BED file, named by the file, or all of a table, in the order they come in.

    The place of a peak is the summit of a narrowPeak file, where it has one, else the middle of the interval. A table
    (comma, tab or semicolon, also `.gz`) has the columns `track` (or `protein`, `factor`), `chrom` and `position`,
    counted from 0.

    Odd lines are left out and given to `report` in one summary. Raises InputError for a file that cannot be read, a
    column that is not there, no peak, and too many odd lines (see `Skipped`).
    """
    path = Path(path)
    places: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    name = path.name.removesuffix(".gz")
    stem, _, suffix = name.rpartition(".")
    if f".{suffix.lower()}" in BED:
        summits = _summits(path) if suffix.lower() == "narrowpeak" else {}
        for region in read_bed(path, report):
            place = region.start + summits.get(region.line, (region.end - region.start) // 2)
            places[stem][region.chromosome].append(place)
    else:
        header, rows, _ = read_delimited(path)
        columns = [cell.strip().casefold() for cell in header.cells]
        track = next((name for name in TRACK_COLUMNS if name in columns), TRACK_COLUMNS[0])
        if absent := [name for name in (track, "chrom", "position") if name not in columns]:
            raise InputError(
                f"{path}: no column {absent[0]!r} among {shown(', '.join(header.cells), 100)}: a table of peaks has "
                f"{' or '.join(TRACK_COLUMNS)}, chrom and position; name a BED file .bed or .narrowPeak"
            )
        indices = [columns.index(name) for name in (track, "chrom", "position")]
        skipped, sound = Skipped(path, "peaks"), 0
        for row in rows:
            which, chromosome, position = (row.cells[index].strip() for index in indices)
            number = whole_number(position)
            if not which or not chromosome or number is None:
                skipped.add(f"no {track}, chrom or position: {shown(position, 40)}", row.line)
                continue
            sound += 1
            places[which][chromosome].append(number)
        skipped.close(sound, report)
    if not places:
        raise InputError(f"{path}: no peak in it")
    return [
        Peaks(name, str(path), {chromosome: np.sort(np.array(own, int)) for chromosome, own in by_name.items()})
        for name, by_name in places.items()
    ]


def _summits(path: Path) -> dict[int, int]:
    """Offset of the summit from the start by line, where the tenth column of a narrowPeak file has one."""
    lines = ((number, line.split("\t")) for number, line in text_lines(path))
    offsets = ((number, whole_number(fields[9])) for number, fields in lines if len(fields) > 9)
    return {number: offset for number, offset in offsets if offset is not None}  # -1 is none
