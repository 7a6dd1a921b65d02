"""Sentences with a class number in front, one a line, latin-1."""

from pathlib import Path

from covjax.data.related import linked, word_runs
from covjax.data.text import text_lines
from covjax.sources.rows import Row, as_published, with_groups, without_copies

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
