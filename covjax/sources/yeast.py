"""The whole genome of S. cerevisiae: ChIP-exo peaks in windows, expression and half-life of genes."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from covjax.data.genome import block_name, stream_chromosomes
from covjax.data.letters import reverse_complement
from covjax.data.near_copies import near_copies
from covjax.data.splits import SPLITS
from covjax.errors import InputError
from covjax.sources.draw import Row, Sizes, as_published, draw, linked, read_records, shared_file

HELD_OUT = ("chr4", "chr12", "chr16")  # the test set
BLOCK = 50_000  # nt of one group
WINDOW = 1000  # nt
FEWEST = 300  # windows with a peak that a protein must have
UPSTREAM, DOWNSTREAM = 500, 250  # nt taken for a promoter and a terminator
MOST_CODING = 5000  # nt
WINDOW_COVARIATES = ("orf", "promoter", "starts", "log_start_distance")
STOPS = ("TAA", "TAG", "TGA")
CODONS = tuple(codon for each in product("ACGT", repeat=3) if (codon := "".join(each)) not in STOPS)
CODON_COVARIATES = tuple(f"codon_{codon}" for codon in CODONS)
GENE_OUTPUTS = ("log FPKM", "log half-life")

Named = tuple[list[Row], tuple[str, ...]]  # rows, and the names of their outputs


@dataclasses.dataclass(frozen=True)
class Orf:
    """An open reading frame, half-open from 0 on the + strand; its measures are None where there are none."""

    name: str
    chromosome: str
    start: int
    end: int
    strand: str
    fpkm: float | None
    half_life: float | None

    @property
    def first(self) -> int:
        """The place of its first nucleotide."""
        return self.start if self.strand == "+" else self.end - 1

    def stretch(self, begin: int, end: int) -> tuple[int, int]:
        """Nucleotides `begin` to `end` of its own direction, counted from its first one, on the + strand."""
        return (self.start + begin, self.start + end) if self.strand == "+" else (self.end - end, self.end - begin)

    def cut(self, chromosome: str, begin: int, end: int) -> str:
        """The letters of `stretch` on its own strand."""
        low, high = self.stretch(begin, end)
        piece = chromosome[low:high]
        return piece if self.strand == "+" else reverse_complement(piece)


def chipexo(shared: Path, sizes: Sizes, window: int = WINDOW) -> Named:
    """Windows side by side along every chromosome; outputs are log(1 + peaks) of every protein with enough windows.

    Such proteins have peaks in at least 300 windows of the genome. Those that a split of the drawn rows says nothing
    of, with peaks in none or equally many in all of its windows, are left out as well.
    """
    genome = _genome(shared)
    proteins, peaks = _peaks(shared, genome, window)
    many = (peaks > 0).sum(1) >= FEWEST
    rows = draw(_windows(shared, genome, window), sizes, largest=None)
    values = np.log1p(peaks[many][:, _places(rows, genome, window)])
    sides = [[row.split == split for row in rows] for split in SPLITS]
    varied = np.all([np.ptp(values[:, side], axis=1) > 0 for side in sides], axis=0)
    if not varied.any():
        raise InputError(f"sizes: {sizes} leave no protein with peaks in every split; take more rows")
    print(f"left out: {(~many).sum()} proteins in fewer than {FEWEST} windows, {(~varied).sum()} absent from a split")
    names = tuple(name for name, enough in zip(proteins, many) if enough)
    return _answered(rows, values[varied].T), tuple(name for name, varies in zip(names, varied) if varies)


def occupancy(shared: Path, sizes: Sizes) -> Named:
    """The windows of `chipexo`; the output is log(1 + peaks of all proteins)."""
    genome = _genome(shared)
    _, peaks = _peaks(shared, genome, WINDOW)
    rows = draw(_windows(shared, genome, WINDOW), sizes, largest=None)
    return _answered(rows, np.log1p(peaks.sum(0)[_places(rows, genome, WINDOW), None])), ("log(1 + peaks)",)


def genes(shared: Path, sizes: Sizes, flanks: bool = False) -> Named:
    """Coding sequences, or promoter and terminator joined (`flanks`); outputs are log FPKM and log half-life (minutes).

    Genes are those that have both measures. Left out are those that do not read from ATG to their only stop (introns
    among them, which the file does not mark), that are longer than 5,000 nt, and whose stretch, 500 nt before and
    250 nt behind it included, leaves its block of 50 kb.
    """
    genome, rows, pieces = _genome(shared), list[Row](), list[tuple[str, ...]]()
    measured = [orf for orf in _orfs(shared, genome) if orf.fpkm and orf.half_life]
    unread, edges = 0, 0
    for orf in measured:
        assert orf.fpkm is not None
        assert orf.half_life is not None
        length = orf.end - orf.start
        low, high = orf.stretch(-UPSTREAM, length + DOWNSTREAM)
        block = block_name(orf.chromosome, max(low, 0), BLOCK)
        chromosome = genome[orf.chromosome]
        if low < 0 or high > len(chromosome) or block != block_name(orf.chromosome, high - 1, BLOCK):
            edges += 1
            continue
        coding = orf.cut(chromosome, 0, length)
        codons = [coding[i : i + 3] for i in range(0, length, 3)]
        if length > MOST_CODING or codons[0] != "ATG" or not (set(codons[:-1]) <= {*CODONS} and codons[-1] in STOPS):
            unread += 1
            continue
        ends = orf.cut(chromosome, -UPSTREAM, 0), orf.cut(chromosome, length, length + DOWNSTREAM)
        answer = ";".join(f"{np.log(value):.6g}" for value in (orf.fpkm, orf.half_life))
        split = "test" if orf.chromosome in HELD_OUT else ""
        shares = () if flanks else tuple(codons[:-1].count(codon) / (len(codons) - 1) for codon in CODONS)
        rows.append(Row(orf.name, "".join(ends) if flanks else coding, answer, block, split, shares))
        pieces.append(ends if flanks else (coding,))
    print(f"left out: {edges} genes over the edge of a block, {unread} that are no open frame of <= {MOST_CODING} nt")
    return draw(_copies_apart(rows, pieces), sizes, largest=None), GENE_OUTPUTS


def _genome(shared: Path) -> dict[str, str]:
    path = shared_file(shared, "yeast", "sacCer3.fa.gz")
    genome = {name: sequence.upper() for name, sequence in stream_chromosomes(path)}
    if absent := [name for name in HELD_OUT if name not in genome]:
        raise InputError(f"{path}: not as published: no {absent[0]}")
    return genome


def _orfs(shared: Path, genome: Mapping[str, str]) -> list[Orf]:
    """Open reading frames in the order of the file, without dubious ones."""
    path = shared_file(shared, "yeast", "genes.tsv.gz")
    columns = ("gene", "status", "chrom", "start", "end", "strand", "fpkm", "half_life")
    out = []
    for line, (name, status, chromosome, start, end, strand, fpkm, half_life) in read_records(path, "\t", columns):
        with as_published(path, line):
            measures = [float(cell) if cell else None for cell in (fpkm, half_life)]
            orf = Orf(name, chromosome, int(start), int(end), strand, *measures)
            if not 0 <= orf.start < orf.end <= len(genome[chromosome]) or strand not in ("+", "-"):
                raise ValueError(f"{chromosome}:{start}-{end} {strand}")
        if status != "Dubious":
            out.append(orf)
    return out


def _peaks(
    shared: Path, genome: Mapping[str, str], window: int
) -> tuple[list[str], Int[np.ndarray, "proteins windows"]]:
    """How many peaks every protein has in every window, the chromosomes one after another."""
    path = shared_file(shared, "yeast", "chipexo_peaks.tsv.gz")
    first = _first_windows(genome, window)
    number, places = dict[str, int](), list[tuple[int, int]]()
    for line, (protein, chromosome, position) in read_records(path, "\t", ("protein", "chrom", "position")):
        with as_published(path, line):
            place = int(position)
            if not 0 <= place < len(genome[chromosome]):
                raise ValueError(f"{chromosome}:{place}")
        if place // window < len(genome[chromosome]) // window:  # what is left at the end is no window
            places.append((number.setdefault(protein, len(number)), first[chromosome] + place // window))
    counts = np.zeros((len(number), sum(len(sequence) // window for sequence in genome.values())), int)
    np.add.at(counts, tuple(np.array(places, int).reshape(-1, 2).T), 1)
    return list(number), counts


def _first_windows(genome: Mapping[str, str], window: int) -> dict[str, int]:
    first, total = {}, 0
    for name, sequence in genome.items():
        first[name], total = total, total + len(sequence) // window
    return first


def _places(rows: Sequence[Row], genome: Mapping[str, str], window: int) -> Int[np.ndarray, "rows"]:
    """The number of every row's window in the genome, by its id."""
    first, places = _first_windows(genome, window), []
    for row in rows:
        chromosome, _, interval = row.id.partition(":")
        places.append(first[chromosome] + int(interval.partition("-")[0]) // window)
    return np.array(places, int)


def _answered(rows: Sequence[Row], values: Float[np.ndarray, "rows outputs"]) -> list[Row]:
    texts = (";".join(f"{value:.6g}" for value in own) for own in values)
    return [dataclasses.replace(row, answer=text) for row, text in zip(rows, texts, strict=True)]


def _windows(shared: Path, genome: Mapping[str, str], window: int) -> list[Row]:
    """All windows without their answers, with what they are by the genes around them."""
    by_chromosome: defaultdict[str, list[Orf]] = defaultdict(list)
    for orf in _orfs(shared, genome):
        by_chromosome[orf.chromosome].append(orf)
    rows = []
    for name, sequence in genome.items():
        split = "test" if name in HELD_OUT else ""
        beside = window_covariates(by_chromosome[name], len(sequence), window)
        for number, numbers in enumerate(beside.tolist()):
            start = number * window
            piece, place = sequence[start : start + window], f"{name}:{start}-{start + window}"
            rows.append(Row(place, piece, "", block_name(name, start, BLOCK), split, tuple(numbers)))
    return _copies_apart(rows, [(row.sequence,) for row in rows])


def window_covariates(orfs: Sequence[Orf], length: int, window: int) -> Float[np.ndarray, "windows 4"]:
    """`WINDOW_COVARIATES` of the windows side by side along a chromosome of `length` nucleotides.

    The share of nucleotides in an open reading frame; the share in none, but within 500 nt before the first nucleotide
    of one; how many first nucleotides lie inside; log(1 + nt) from the window's centre to the nearest one.
    """
    inside, before = np.zeros(length, bool), np.zeros(length, bool)
    for orf in orfs:
        inside[orf.start : orf.end] = True
        low, high = orf.stretch(-UPSTREAM, 0)
        before[max(low, 0) : max(high, 0)] = True
    count = length // window
    shares = [mask[: count * window].reshape(count, window).mean(1) for mask in (inside, before & ~inside)]
    firsts = np.sort([orf.first for orf in orfs])
    numbers = np.bincount(firsts // window, minlength=count + 1)[:count] if len(orfs) else np.zeros(count)
    centres = np.arange(count) * window + window // 2
    distances = np.full(count, float(length))
    if len(orfs):
        after = np.searchsorted(firsts, centres)
        nearest = [firsts[np.clip(after + step, 0, len(firsts) - 1)] for step in (-1, 0)]
        distances = np.min(np.abs(np.array(nearest) - centres), axis=0).astype(float)
    return np.stack([*shares, numbers.astype(float), np.log1p(distances)], axis=1)


def _copies_apart(rows: Sequence[Row], pieces: Sequence[tuple[str, ...]]) -> list[Row]:
    """Rows of several blocks that are near copies (Ty elements, telomeres, paralogs) as a group of their own.

    `pieces` are the parts of every row that are compared, the first of one with the first of another and so on.
    """
    numbers = [near_copies(part, "dna") for part in zip(*pieces)]
    groups = linked([list(enumerate(own)) for own in zip(*(part.tolist() for part in numbers))])
    blocks: defaultdict[int, set[str]] = defaultdict(set)
    for row, number in zip(rows, groups):
        blocks[number].add(row.group)
    return [
        dataclasses.replace(row, group=f"copies of {rows[number].id}") if len(blocks[number]) > 1 else row
        for row, number in zip(rows, groups)
    ]
