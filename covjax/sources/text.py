"""Text data sets: questions (TREC), sentiment, subjectivity."""

from pathlib import Path

from covjax.data.text import text_lines
from covjax.sources.draw import (
    Row,
    Sizes,
    as_published,
    draw,
    linked,
    shared_file,
    with_groups,
    without_copies,
    word_runs,
)

N = 8  # words


def read_sentences(path: Path, classes: tuple[str, ...], split: str = "") -> list[Row]:
    """One row a line, without copies; the id is the file's stem and the line."""
    rows = []
    class_of = {str(number): name for number, name in enumerate(classes)}
    for number, line in text_lines(path, "latin-1"):
        with as_published(path, number):
            label, sentence = line.strip().split(" ", 1)
            rows.append(Row(f"{path.name.removesuffix('.all.gz')}:{number}", sentence, class_of[label], "", split))
    return without_copies(rows)


def grouped(rows: list[Row]) -> list[Row]:
    """Sentences that share eight words in a row, or all of theirs, are one group; case and punctuation do not count."""
    return with_groups(rows, linked([word_runs(row.sequence, N) for row in rows]))


CLASSES = ("description", "entity", "abbreviation", "human", "location", "number")


def trec(shared: Path, sizes: Sizes) -> list[Row]:
    """The official test questions are the test; training questions related to one of them are left out."""
    train = read_sentences(shared_file(shared, "text", "TREC.train.all.gz"), CLASSES)
    test = read_sentences(shared_file(shared, "text", "TREC.test.all.gz"), CLASSES, "test")
    rows = grouped(train + test)
    held_out = {row.group for row in rows if row.split}
    leaking = sum(row.group in held_out for row in rows if not row.split)
    print(f"left out: {leaking} training questions that are in the test too, or share eight words in a row with it")
    return draw(rows, sizes, largest=None)


def sentiment(shared: Path, sizes: Sizes) -> list[Row]:
    """Sentences drawn by group."""
    path = shared_file(shared, "text", "rt-polarity.all.gz")
    return draw(grouped(read_sentences(path, ("negative", "positive"))), sizes)


def subj(shared: Path, sizes: Sizes) -> list[Row]:
    """Sentences of reviews (subjective) and of plot summaries (objective), drawn by group."""
    path = shared_file(shared, "text", "subj.all.gz")
    return draw(grouped(read_sentences(path, ("subjective", "objective"))), sizes)
