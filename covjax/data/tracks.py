"""Windows of a genome with the signal of tracks, from BED, FASTA and bigWig.

    python -m covjax.data.tracks --bed regions.bed --genome genome.fa.gz --bigwig first.bw,second.bw --window 2048 \\
        --stride 1024 --centre 1024 --block 100000 --output tracks.csv.gz

Writes the columns id, sequence, targets, group. The genome is read once as a stream; one chromosome is held at a time.
"""

import argparse
import contextlib
import csv
import dataclasses
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from covjax.data.bigwig import BigWig
from covjax.data.genome import Region, block_name, read_bed, report_absent, stream_chromosomes
from covjax.data.letters import reverse_complement
from covjax.data.text import Report, Skipped, warn
from covjax.errors import InputError, shown
from covjax.jobs.cli import exit_on_input_error
from covjax.jobs.disk import new_text, text_cell

COMMAND = "python -m covjax.data.tracks"


class Window(NamedTuple):
    """A window on its own strand: `targets` are the bins of the first track, 5' to 3', then those of the second."""

    name: str
    sequence: str
    targets: Float[np.ndarray, "values"]
    group: str


def cut_windows(region: Region, window: int, stride: int) -> list[tuple[int, int]]:
    """Windows inside a region, the first at its start; what is left at the end and is shorter is no window.

    `window` 0 takes the region itself.

    Raises InputError for window < 0 and stride < 1.
    """
    if window < 0 or stride < 1:
        raise InputError(f"window: {window} must be >= 0 and stride: {stride} >= 1")
    if window == 0:
        return [(region.start, region.end)]
    return [(start, start + window) for start in range(region.start, region.end - window + 1, stride)]


def binned(values: Float[np.ndarray, "n"], bins: int) -> Float[np.ndarray, "bins"]:
    """Mean of every one of `bins` equal stretches; InputError where they are not equal."""
    if bins < 1 or len(values) % bins:
        raise InputError(f"bins: {len(values)} nucleotides cannot be divided into {bins} equal bins")
    return values.reshape(bins, -1).mean(axis=1)


def read_signal(
    track: BigWig, name: str, chromosome: str, start: int, end: int, missing: str
) -> Float[np.ndarray, "n"]:
    """One value a nucleotide of an open bigWig; where it has none, 0 (`missing` zero) or InputError (`error`)."""
    values = track.values(chromosome, start, end)
    gaps = np.isnan(values)
    if gaps.any() and missing != "zero":
        raise InputError(
            f"{name}: no value for {int(gaps.sum())} of the nucleotides {chromosome}:{start}-{end}; "
            "--missing zero takes them as 0 (right for coverage, wrong for scores)"
        )
    return np.where(gaps, 0.0, values)


@dataclasses.dataclass(frozen=True)
class Cut:
    """How regions become examples.

    Windows of `window` nucleotides every `stride` (0: the region itself); targets are means over `bins` equal stretches
    of the central `centre` nucleotides (0: of all), as log(1 + mean) or as they are (`scale` log1p, none); nucleotides
    without a value are an error or 0 (`missing` error, zero); groups are blocks of `block` nucleotides.

    Raises InputError for another `missing` or `scale`; the numbers are checked where they are used.
    """

    window: int = 0
    stride: int = 1
    centre: int = 0
    bins: int = 1
    block: int = 100_000
    missing: str = "error"
    scale: str = "log1p"

    def __post_init__(self):
        if self.missing not in ("error", "zero") or self.scale not in ("log1p", "none"):
            raise InputError(f"missing: {self.missing!r} must be error or zero, scale: {self.scale!r} log1p or none")


def track_windows(
    bed: str | Path, genome: str | Path, bigwigs: Sequence[str | Path], cut: Cut, report: Report = warn
) -> Iterator[Window | None]:
    """Yield the windows, chromosome by chromosome as the genome has them; None for one over the edge of a block.

    Such a window would share nucleotides with two groups. Regions on the strand `-` give the other strand, and their
    bins in its order.

    Odd lines of the BED file, regions outside of their chromosome and regions on chromosomes that the genome lacks are
    left out; `report` is told how many.

    Raises InputError for numbers that do not go together, too many odd regions (see `Skipped`), a genome that has none
    of the chromosomes, a track that lacks one or has it at another length, no readable bigWig, missing values (see
    `read_signal`), means below 0 under log1p, and infinite ones.
    """
    with contextlib.ExitStack() as stack:
        tracks = {str(path): stack.enter_context(BigWig(path)) for path in bigwigs}
        waiting: defaultdict[str, list[Region]] = defaultdict(list)
        for region in read_bed(bed, report):
            waiting[region.chromosome].append(region)
        present, skipped, sound = [], Skipped(bed, "regions"), 0
        for name, chromosome in stream_chromosomes(genome):
            present.append(name)
            for region in waiting.get(name, []):
                if fault := region.fault(len(chromosome)):
                    skipped.add(fault, region.line)
                    continue
                sound += 1
                for path, track in tracks.items():
                    if track.chromosomes.get(name) != len(chromosome):
                        raise InputError(
                            f"{path}: {shown(name)} has {track.chromosomes.get(name, 'no')} nucleotides, "
                            f"{len(chromosome)} in {genome}: another assembly, or other names"
                        )
                for start, end in cut_windows(region, cut.window, cut.stride):
                    yield _window(chromosome, region, start, end, tracks, cut)
        lines = {name: [region.line for region in regions] for name, regions in waiting.items()}
        report_absent(bed, genome, lines, present, report)
        skipped.close(sound, report)


def _window(
    chromosome: str, region: Region, start: int, end: int, tracks: dict[str, BigWig], cut: Cut
) -> Window | None:
    name, sequence = f"{region.chromosome}:{start}-{end}", chromosome[start:end]
    group = block_name(region.chromosome, start, cut.block)
    if block_name(region.chromosome, end - 1, cut.block) != group:
        return None
    inner = cut.centre or end - start
    if not 0 < inner <= end - start:
        raise InputError(f"centre: {cut.centre} must be 0 to {end - start}, the window's length")
    first = start + (end - start - inner) // 2
    means = [
        binned(read_signal(track, path, region.chromosome, first, first + inner, cut.missing), cut.bins)
        for path, track in tracks.items()
    ]
    if region.strand == "-":
        name, sequence, means = f"{name}(-)", reverse_complement(sequence), [part[::-1] for part in means]
    targets = np.concatenate(means)
    if not np.isfinite(targets).all():
        raise InputError(f"bigwig: a mean in {shown(name)} is not finite")
    if cut.scale == "log1p":
        if targets.min() < 0:
            raise InputError(f"scale: a mean of {targets.min():.4g} in {name}; use none")
        targets = np.log1p(targets)
    return Window(name, sequence, targets, group)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--bed", type=Path, required=True, help="regions")
    parser.add_argument("--genome", type=Path, required=True, help="FASTA of the chromosomes")
    parser.add_argument("--bigwig", required=True, help="files of the tracks, separated by commas")
    parser.add_argument("--output", type=Path, required=True, help="the table to write: .csv or .csv.gz")
    for name, text in (
        ("window", "nucleotides of a window; 0 takes every region as one"),
        ("stride", "from one window's start to the next one's"),
        ("centre", "central nucleotides that the targets are of; 0 takes all"),
        ("bins", "targets a track"),
        ("block", "nucleotides of one group"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Cut, name), help=f"{text} (default: %(default)s)")
    parser.add_argument("--missing", choices=("error", "zero"), default=Cut.missing, help="nucleotides without a value")
    parser.add_argument("--scale", choices=("log1p", "none"), default=Cut.scale, help="of the means")
    flags = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    bed, genome, bigwigs, output = (flags.pop(name) for name in ("bed", "genome", "bigwig", "output"))
    with exit_on_input_error(COMMAND):
        if not output.name.endswith((".csv", ".csv.gz")):
            raise InputError(f"output: {output} must end in .csv or .csv.gz")
        notes: list[str] = []
        names, over_edges, copies, groups = set[str](), 0, 0, set[str]()
        with new_text(output) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "sequence", "targets", "group"])
            for window in track_windows(bed, genome, bigwigs.split(","), Cut(**flags), notes.append):
                if window is None:
                    over_edges += 1
                    continue
                if window.name in names:  # of regions that overlap
                    copies += 1
                    continue
                values = ";".join(f"{value:.6g}" for value in window.targets)
                writer.writerow([*map(text_cell, (window.name, window.sequence)), values, text_cell(window.group)])
                names.add(window.name)
                groups.add(window.group)
            if not names:
                raise InputError(f"{bed}: no window; {over_edges} lay over the edge of a block")
        copied = f", {copies} that stood already" if copies else ""
        print(
            f"{output}: {len(names)} windows in {len(groups)} groups; "
            f"left out: {over_edges} over the edge of a block{copied}"
        )
        for note in notes:
            print(note)


if __name__ == "__main__":
    main()
