"""Expression from designed yeast terminators (Shalem et al. 2015), 150 nt with constant flanks."""

from pathlib import Path

from covjax.data.related import kmers, linked
from covjax.data.text import text_lines
from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, as_published, shared_file, with_groups, without_copies

START, END = 19, 18  # nt of constant sequence on either side, the same in every construct
K = 20


def build(shared: Path, sizes: Sizes) -> list[Row]:
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
    return draw(with_groups(rows, linked([kmers(sequence, K) for sequence in inner])), sizes, largest=0.05)
