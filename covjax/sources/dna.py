"""DNA data sets: the Genome Understanding Evaluation, yeast terminators, nucleosomes."""

import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from covjax.data.genome import block_name
from covjax.data.text import text_lines
from covjax.errors import InputError, shown
from covjax.sources.draw import (
    Row,
    Sizes,
    as_published,
    canonical_kmers,
    draw,
    kmers,
    linked,
    read_records,
    shared_file,
    with_groups,
    without_copies,
)

K = 32


def gue(file: str, classes: tuple[str, ...]) -> Callable[[Path, Sizes], list[Row]]:
    """The builder of one task; windows that share a 32-mer, on whichever strand, are one group.

    Windows of one gene overlap, and repeats (Alu, Ty) stand in many genes: both would carry answers across a random
    split.
    """

    class_of = {str(number): name for number, name in enumerate(classes)}

    def build(shared: Path, sizes: Sizes) -> list[Row]:
        path = shared_file(shared, "dna", file)
        rows = []
        for i, (line, (sequence, label)) in enumerate(read_records(path, ",", ("sequence", "label")), 2):
            with as_published(path, line):
                rows.append(Row(f"row{i}", sequence, class_of[label], ""))
        rows = without_copies(rows)
        return draw(with_groups(rows, linked([kmers(row.sequence, K, both_strands=True) for row in rows])), sizes)

    return build


splice = gue("splice.csv.gz", ("acceptor", "donor", "no site"))
promoter = gue("promoter_core.csv.gz", ("no promoter", "promoter"))
yeast_h4 = gue("yeast_H4.csv.gz", ("no H4", "H4"))


START, END = 19, 18  # nt of constant sequence on either side, the same in every construct
TERMINATOR_K = 20


def terminator(shared: Path, sizes: Sizes) -> list[Row]:
    """Terminators that share a 20-mer between the constant flanks are one group: one design and its variants.

    Six designs have 492 to 3,310 variants each, so no group gives more than a twentieth of a split's rows.
    Repeated rows have the same value to the last digit, so they are copies and not replicates: one is kept.
    """
    path = shared_file(shared, "dna", "yeast_terminator_expression.tsv.gz")
    rows = []
    for number, line in text_lines(path):
        with as_published(path, number):
            sequence, value = line.split("\t")
        rows.append(Row(f"row{number}", sequence, value, ""))
    rows = without_copies(rows)
    inner = [row.sequence[START : len(row.sequence) - END] for row in rows]
    return draw(with_groups(rows, linked([kmers(sequence, TERMINATOR_K) for sequence in inner])), sizes, largest=0.05)


WINDOW, STRIDE, CENTRE, BLOCK = 512, 256, 256, 20_000  # nt
WINDOWS = (256, 512, 1024, 2048)  # nt, compared on the same centres
MOST_EMPTY = 0.1  # share of the central nucleotides
TRACKS = ("cov_G2", "cov_M", "dyad_G2", "dyad_M")


def mnase(shared: Path, sizes: Sizes, window: int = WINDOW, region: int = WINDOW) -> list[Row]:
    """Windows of 512 nt every 256 nt; targets are log(1 + mean over the central 256 nt) of the four tracks.

    `window` is how much of it around the centre the encoder sees, `region` how much decides which windows there are:
    several of one region have the same targets and splits.

    The group is the 20-kb block; windows over a block's edge are left out, so no nucleotide is in two blocks, and so
    are windows with a 32-mer, on whichever strand, that another block holds too (Ty elements, transfer RNA). Left out
    as well are windows with more than a tenth of the centre under no read in either phase: reads cannot be placed
    there, and a few dozen such zeros would be two thirds of the targets' variance.
    """
    sequence, tracks = _read(shared_file(shared, "tracks", "yeast_chrII_0_600kb_mnase.npz"))
    repeated, empty = _repeated(sequence), (tracks[:2] == 0).all(axis=0)
    rows, shared_repeats, unread = [], 0, 0
    for block in range(0, len(sequence) - BLOCK + 1, BLOCK):
        for start in range(block, block + BLOCK - region + 1, STRIDE):
            if repeated[start : start + region].any():
                shared_repeats += 1
                continue
            centre = slice(start + (region - CENTRE) // 2, start + (region + CENTRE) // 2)
            if empty[centre].mean() > MOST_EMPTY:
                unread += 1
                continue
            values = np.log1p(tracks[:, centre].mean(axis=1))
            answer = ";".join(f"{value:.6f}" for value in values)
            first = start + (region - window) // 2
            name = f"chrII:{first}-{first + window}"
            rows.append(Row(name, sequence[first : first + window], answer, block_name("chrII", start, BLOCK)))
    print(f"left out: {shared_repeats} windows with a {K}-mer that is in another block too, {unread} without reads")
    return draw(rows, sizes, largest=None)


def _read(path: Path) -> tuple[str, np.ndarray]:
    """The letters and the values (tracks, nucleotides); InputError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            sequence = file["seq"].tobytes().decode("ascii")
            tracks = np.stack([file[name].astype(np.float64) for name in TRACKS])
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {shown(str(error), 150)}; fetch the file again") from None
    if tracks.shape != (len(TRACKS), len(sequence)):
        raise InputError(f"{path}: tracks of the shape {tracks.shape}, but {len(sequence)} letters")
    return sequence, tracks


def _repeated(sequence: str) -> np.ndarray:
    """Nucleotides inside a K-mer that stands in more than one block."""
    starts: defaultdict[str, list[int]] = defaultdict(list)
    for i, kmer in enumerate(canonical_kmers(sequence, K)):
        starts[kmer].append(i)
    repeated = np.zeros(len(sequence), bool)
    for places in starts.values():
        if len({i // BLOCK for i in places} | {(i + K - 1) // BLOCK for i in places}) > 1 and len(places) > 1:
            for i in places:
                repeated[i : i + K] = True
    return repeated
