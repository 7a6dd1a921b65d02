"""Sentences with a class number in front, one a line, latin-1."""

import gzip
from pathlib import Path

from covjax.data.related import linked, word_runs
from covjax.sources.rows import Row, with_groups, without_copies

N = 8  # words


def read_sentences(path: Path, classes: tuple[str, ...], split: str = "") -> list[Row]:
    """One row a line, without copies; the id is the file's stem and the line."""
    rows = []
    with gzip.open(path, "rt", encoding="latin-1", newline="\n") as file:
        for number, line in enumerate(file, 1):
            label, sentence = line.strip().split(" ", 1)
            rows.append(Row(f"{path.name.removesuffix('.all.gz')}:{number}", sentence, classes[int(label)], "", split))
    return without_copies(rows)


def grouped(rows: list[Row]) -> list[Row]:
    """Sentences that share eight words in a row, or all of theirs, are one group; case and punctuation do not count."""
    return with_groups(rows, linked([word_runs(row.sequence, N) for row in rows]))
