"""Subcellular localisation of proteins: the ten classes of DeepLoc, whether membrane-bound or soluble."""

from collections import Counter
from pathlib import Path

from covjax.data.fasta import stream_fasta
from covjax.data.related import kmers, overlapping
from covjax.data.splits import SPLITS
from covjax.errors import InputError
from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, as_published, shared_file, with_groups, without_copies

MAX_LENGTH = 1000  # residues
K, SHARE = 5, 0.05
LEAST = 3  # proteins of every class in every split


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """Proteins of at most 1,000 residues; none in two groups share 5 % of the shorter one's distinct 5-mers.

    Two unrelated proteins share well under 1 %. The file is DeepLoc's test partition, so the splits are ours: the first
    draw, of seeds 0, 1, … 99, in which each class has at least 3 proteins in every split (28 peroxisomal ones are few).

    Raises InputError where no draw has.
    """
    rows, longer = [], 0
    path = shared_file(shared, "protein", "deeploc_part.fasta.gz")
    for line, header, sequence in stream_fasta(path):
        with as_published(path, line):
            accession, place, _ = header.split()
        if len(sequence) > MAX_LENGTH:
            longer += 1
        else:
            rows.append(Row(accession, sequence, place.rsplit("-", 1)[0].replace(".", " "), ""))
    print(f"left out: {longer} proteins of more than {MAX_LENGTH} residues")
    rows = without_copies(rows)
    rows = with_groups(rows, overlapping([kmers(row.sequence, K) for row in rows], SHARE))
    classes = {row.answer for row in rows}
    for seed in range(100):
        drawn = draw(rows, sizes, seed)
        counts = Counter((row.split, row.answer) for row in drawn)
        if all(counts[split, place] >= LEAST for split in SPLITS for place in classes):
            print(f"draw: seed {seed}, the first with {LEAST} proteins of every class in every split")
            return drawn
    raise InputError(f"sizes: {sizes} leave some of the {len(classes)} classes under {LEAST} proteins in every draw")
