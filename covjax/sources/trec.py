"""Question type, six classes (TREC; Li and Roth 2002)."""

from pathlib import Path

from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, shared_file
from covjax.sources.text import grouped, read_sentences

CLASSES = ("description", "entity", "abbreviation", "human", "location", "number")


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """The official test questions are the test; training questions related to one of them are left out."""
    train = read_sentences(shared_file(shared, "text", "TREC.train.all.gz"), CLASSES)
    test = read_sentences(shared_file(shared, "text", "TREC.test.all.gz"), CLASSES, "test")
    rows = grouped(train + test)
    held_out = {row.group for row in rows if row.split}
    leaking = sum(row.group in held_out for row in rows if not row.split)
    print(f"left out: {leaking} training questions that stand in the test too, or share eight words in a row with it")
    return draw(rows, sizes, largest=None)
