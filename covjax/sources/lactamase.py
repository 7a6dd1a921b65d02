"""Fitness of the single mutants of TEM-1 beta-lactamase."""

from collections import Counter
from pathlib import Path

from covjax.data.fasta import stream_fasta
from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, shared_file


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """One row a mutant, grouped by the mutated position, so a position is on one side only.

    The most frequent sequence is the wild type. Its copies (silent mutations, each with a measurement of its own) are
    left out: one input with many answers, in none of the positions.
    """
    path = shared_file(shared, "protein", "beta_lactamase_fitness.fasta.gz")
    records = [(*header.split("|"), sequence) for _, header, sequence in stream_fasta(path)]
    wild_type, copies = Counter(sequence for *_, sequence in records).most_common(1)[0]
    print(f"left out: {copies} copies of the wild type")
    rows = []
    for _, name, fitness, sequence in records:
        if sequence != wild_type:
            (position,) = (i for i, (a, b) in enumerate(zip(sequence, wild_type, strict=True), 1) if a != b)
            rows.append(Row(name.split("_")[1], sequence, fitness, f"position {position}"))
    return draw(rows, sizes)
