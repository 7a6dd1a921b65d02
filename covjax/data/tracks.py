"""Windows of a genome with the signal or the peaks of tracks, from FASTA, bigWig and BED.

    python -m covjax.data.tracks --bed regions.bed --genome genome.fa.gz --bigwig first.bw,second.bw --window 2048 \\
        --stride 1024 --centre 1024 --block 100000 --output tracks.csv.gz
    python -m covjax.data.tracks --genome genome.fa.gz --peaks peaks.tsv.gz --fewest 300 --window 1000 --stride 1000 \\
        --block 50000 --output tracks.csv.gz

Writes the columns id, sequence, targets, group, and beside them `tracks-names.csv` for --label-names. Without --bed
windows are cut from whole chromosomes. The genome is read as a stream; one chromosome is held at a time, and of one
track at a time a million nucleotides.
"""

import argparse
import contextlib
import csv
import dataclasses
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from covjax.data.bigwig import BigWig
from covjax.data.genome import Region, block_name, read_bed, report_absent, stream_chromosomes
from covjax.data.letters import reverse_complement
from covjax.data.peaks import Peaks, read_peaks
from covjax.data.targets import target_names_path, write_target_names
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
    """Windows inside a region, the first at its start; a shorter rest at the end is left out.

    `window` 0 takes the region itself.

    Raises InputError for window < 0 and stride < 1.
    """
    if window < 0 or stride < 1:
        raise InputError(f"window: {window} must be >= 0 and stride: {stride} >= 1")
    if window == 0:
        return [(region.start, region.end)]
    return [(start, start + window) for start in range(region.start, region.end - window + 1, stride)]


def binned(values: Float[np.ndarray, "n"], bins: int) -> Float[np.ndarray, "bins"]:
    """Mean of each of `bins` equal stretches; InputError if they cannot be equal."""
    if bins < 1 or len(values) % bins:
        raise InputError(f"bins: {len(values)} nucleotides cannot be divided into {bins} equal bins")
    return values.reshape(bins, -1).mean(axis=1)


def filled(
    values: Float[np.ndarray, "n"], name: str, chromosome: str, start: int, end: int, missing: str
) -> Float[np.ndarray, "n"]:
    """One value per nucleotide of a track; gaps become 0 (`missing` zero) or raise InputError (`error`)."""
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

    Windows of `window` nucleotides every `stride` (0: the region itself); targets are means, or numbers of peaks, over
    `bins` equal stretches of the central `centre` nucleotides (0: of all), as log(1 + x) or x (`scale` log1p, none);
    nucleotides without a value are an error or 0 (`missing` error, zero); groups are blocks of `block` nucleotides.

    Raises InputError for another `missing` or `scale`; the numbers are checked where they are used.
    """

    window: int = 0
    stride: int = 1
    centre: int = 0
    bins: int = 1
    block: int = 100_000
    missing: str = "error"
    scale: str = "log1p"

    def __post_init__(self) -> None:
        if self.missing not in ("error", "zero") or self.scale not in ("log1p", "none"):
            raise InputError(f"missing: {self.missing!r} must be error or zero, scale: {self.scale!r} log1p or none")


STRETCH = 1 << 20  # nucleotides of a track read at a time: blocks of a bigWig are unpacked once, not for each window


def track_windows(
    bed: str | Path | None,
    genome: str | Path,
    bigwigs: Sequence[str | Path],
    cut: Cut,
    report: Report = warn,
    peaks: Sequence[Peaks] = (),
) -> Iterator[Window | None]:
    """Yield the windows, chromosome by chromosome as the genome has them; None for one over the edge of a block.

    Such a window would share nucleotides with two groups. Regions on the strand `-` give the other strand, and their
    bins in its order. Without `bed` the regions are whole chromosomes. Tracks of `peaks` come after the bigWigs.

    Odd lines of the BED file, regions outside of their chromosome, and regions and peaks on chromosomes that the genome
    lacks are left out; `report` is told how many.

    Raises InputError for numbers that do not go together, too many odd regions (see `Skipped`), a genome that has none
    of the chromosomes, a track that lacks one or has it at another length, no readable bigWig, missing values (see
    `filled`), means below 0 under log1p, and infinite ones.
    """
    with contextlib.ExitStack() as stack:
        tracks = {str(path): stack.enter_context(BigWig(path)) for path in bigwigs}
        waiting: defaultdict[str, list[Region]] = defaultdict(list)
        for region in read_bed(bed, report) if bed else ():
            waiting[region.chromosome].append(region)
        present, skipped, sound = [], Skipped(bed or genome, "regions"), 0
        for name, chromosome in stream_chromosomes(genome):
            present.append(name)
            _check_peaks(peaks, name, len(chromosome), genome)
            for region in waiting.get(name, []) if bed else (Region(name, 0, len(chromosome)),):
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
                windows = cut_windows(region, cut.window, cut.stride)
                while windows:
                    last = next(
                        (i for i, each in enumerate(windows) if each[1] > windows[0][0] + STRETCH), len(windows)
                    )
                    stretch, windows = windows[: max(last, 1)], windows[max(last, 1) :]
                    yield from _windows(chromosome, region, stretch, tracks, peaks, cut)
        _report_peaks(peaks, genome, present, report)
        lines = {name: [region.line for region in regions] for name, regions in waiting.items()}
        report_absent(bed or genome, genome, lines, present, report)
        skipped.close(sound, report)


def _check_peaks(peaks: Sequence[Peaks], name: str, length: int, genome: str | Path) -> None:
    """InputError for a peak beyond the end of a chromosome."""
    for each in peaks:
        if name in each.places and each.places[name][-1] >= length:
            place = f"at {each.places[name][-1]} of {shown(name, 40)}, which has {length} nucleotides in {genome}"
            raise InputError(f"{each.path}: a peak of {shown(each.name, 40)} {place}: another assembly")


def _report_peaks(peaks: Sequence[Peaks], genome: str | Path, present: Sequence[str], report: Report) -> None:
    """Report peaks on chromosomes that the genome lacks, file by file; InputError where it has none of a file's."""
    by_file: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for each in peaks:
        for name, places in each.places.items():
            by_file[each.path][name] += [0] * len(places)
    for path, lines in by_file.items():
        report_absent(path, genome, lines, present, report)


def _windows(
    chromosome: str,
    region: Region,
    windows: Sequence[tuple[int, int]],
    tracks: Mapping[str, BigWig],
    peaks: Sequence[Peaks],
    cut: Cut,
) -> Iterator[Window | None]:
    """The windows of one stretch; every track is read once over all of it, and one at a time."""
    name, low, high = region.chromosome, windows[0][0], windows[-1][1]
    inside = [block_name(name, s, cut.block) == block_name(name, e - 1, cut.block) for s, e in windows]
    places = [_centre(start, end, cut.centre) for start, end in windows]
    targets: list[list[np.ndarray]] = [[] for _ in windows]
    for path, track in tracks.items():
        values = track.values(name, low, high)
        for (start, end), own, whole in zip(places, targets, inside):
            if whole:
                part = filled(values[start - low : end - low], path, name, start, end, cut.missing)
                own.append(binned(part, cut.bins))
    for each in peaks:
        values = each.values(name, low, high)
        for (start, end), own, whole in zip(places, targets, inside):
            if whole:
                own.append(np.rint(binned(values[start - low : end - low], cut.bins) * (end - start) / cut.bins))
    for (start, end), own, whole in zip(windows, targets, inside):
        yield _window(chromosome, region, start, end, own, cut) if whole else None


def _centre(start: int, end: int, centre: int) -> tuple[int, int]:
    inner = centre or end - start
    if not 0 < inner <= end - start:
        raise InputError(f"centre: {centre} must be 0 to {end - start}, the window's length")
    first = start + (end - start - inner) // 2
    return first, first + inner


def _window(
    chromosome: str, region: Region, start: int, end: int, values: Sequence[Float[np.ndarray, "bins"]], cut: Cut
) -> Window:
    name, sequence = f"{region.chromosome}:{start}-{end}", chromosome[start:end]
    group = block_name(region.chromosome, start, cut.block)
    if region.strand == "-":
        name, sequence, values = f"{name}(-)", reverse_complement(sequence), [part[::-1] for part in values]
    targets = np.concatenate(values)
    if not np.isfinite(targets).all():
        raise InputError(f"bigwig: a mean in {shown(name)} is not finite")
    if cut.scale == "log1p":
        if targets.min() < 0:
            raise InputError(f"scale: a mean of {targets.min():.4g} in {name}; use none")
        targets = np.log1p(targets)
    return Window(name, sequence, targets, group)


def frequent(peaks: Sequence[Peaks], bed: str | Path | None, genome: str | Path, cut: Cut, fewest: int) -> list[Peaks]:
    """The tracks that have peaks in at least `fewest` windows; the genome is read for it. InputError for fewest < 1."""
    if fewest < 1:
        raise InputError(f"fewest: {fewest} must be >= 1")
    if not peaks:
        return []
    counts = np.zeros(len(peaks), int)
    for window in track_windows(bed, genome, (), cut, lambda _: None, peaks):
        if window is not None:
            counts += (window.targets.reshape(len(peaks), -1) > 0).any(1)
    return [each for each, count in zip(peaks, counts) if count >= fewest]


def target_names(bigwigs: Sequence[str | Path], peaks: Sequence[Peaks], bins: int) -> list[str]:
    """The names of a window's targets, in order: the file's or track's name, and the bin if there are several."""
    names = [Path(path).name.rpartition(".")[0] or str(path) for path in bigwigs] + [each.name for each in peaks]
    return names if bins == 1 else [f"{name}, bin {number}" for name in names for number in range(1, bins + 1)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--bed", type=Path, help="regions; without it, whole chromosomes")
    parser.add_argument("--genome", type=Path, required=True, help="FASTA of the chromosomes")
    parser.add_argument("--bigwig", default="", help="files of tracks with a signal, separated by commas")
    parser.add_argument(
        "--peaks",
        default="",
        help="files of tracks with peaks, which are counted, separated by commas: .bed or .narrowPeak, a track each, "
        "or tables with the columns track (or protein), chrom, position",
    )
    parser.add_argument(
        "--fewest", type=int, default=1, help="windows that a track's peaks must be in (default: %(default)s)"
    )
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
    bed, genome, output, fewest = (flags.pop(name) for name in ("bed", "genome", "output", "fewest"))
    bigwigs, peak_files = ([path for path in flags.pop(name).split(",") if path] for name in ("bigwig", "peaks"))
    with exit_on_input_error(COMMAND):
        if not output.name.endswith((".csv", ".csv.gz")):
            raise InputError(f"output: {output} must end in .csv or .csv.gz")
        notes: list[str] = []
        if not bigwigs and not peak_files:
            raise InputError("bigwig, peaks: no track; name files of one or both")
        if bed is None and not flags["window"]:
            raise InputError("window: 0 takes whole regions, and without --bed there are none; give --window")
        cut = Cut(**flags)
        peaks = frequent(
            [each for path in peak_files for each in read_peaks(path, notes.append)], bed, genome, cut, fewest
        )
        if not bigwigs and not peaks:
            raise InputError(f"fewest: no track has peaks in {fewest} windows; give a smaller number")
        if peak_files:
            notes.append(f"peaks: {len(peaks)} tracks with peaks in {fewest} windows or more")
        names, over_edges, copies, groups = set[str](), 0, 0, set[str]()
        with new_text(output) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "sequence", "targets", "group"])
            for window in track_windows(bed, genome, bigwigs, cut, notes.append, peaks):
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
                raise InputError(f"{bed or genome}: no window; {over_edges} lay over the edge of a block")
            write_target_names(target_names_path(output), target_names(bigwigs, peaks, cut.bins))
        copied = f", {copies} that stood already" if copies else ""
        print(
            f"{output}: {len(names)} windows in {len(groups)} groups; "
            f"left out: {over_edges} over the edge of a block{copied}"
        )
        for note in notes:
            print(note)


if __name__ == "__main__":
    main()
