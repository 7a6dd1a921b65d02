"""Three tasks of the Genome Understanding Evaluation (Zhou et al. 2024): splice sites, core promoters, histone H4."""

from collections.abc import Callable
from pathlib import Path

from covjax.data.related import kmers, linked
from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, as_published, read_records, shared_file, with_groups, without_copies

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
