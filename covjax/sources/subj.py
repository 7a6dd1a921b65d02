"""Subjective or objective sentences (Pang and Lee 2004)."""

from pathlib import Path

from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, shared_file
from covjax.sources.text import grouped, read_sentences


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """Sentences of reviews (subjective) and of plot summaries (objective), drawn by group."""
    path = shared_file(shared, "text", "subj.all.gz")
    return draw(grouped(read_sentences(path, ("subjective", "objective"))), sizes)
