"""Subjective or objective sentences (Pang and Lee 2004)."""

from pathlib import Path

from eval.sources.draw import Sizes, draw
from eval.sources.rows import Row, shared_file
from eval.sources.text import grouped, read_sentences


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """Sentences of reviews (subjective) and of plot summaries (objective), drawn by group."""
    path = shared_file(shared, "text", "subj.all.gz")
    return draw(grouped(read_sentences(path, ("subjective", "objective"))), sizes)
