"""Negative or positive sentences of film reviews (Pang and Lee 2005)."""

from pathlib import Path

from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, shared_file
from covjax.sources.text import grouped, read_sentences


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """Sentences drawn by group."""
    path = shared_file(shared, "text", "rt-polarity.all.gz")
    return draw(grouped(read_sentences(path, ("negative", "positive"))), sizes)
