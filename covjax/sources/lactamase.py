"""Fitness of the single mutants of TEM-1 beta-lactamase."""

from collections import Counter
from pathlib import Path

from covjax.data.fasta import stream_fasta
from covjax.errors import InputError
from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, as_published, shared_file


def build(shared: Path, sizes: Sizes) -> list[Row]:
    """One row a mutant, grouped by the mutated position, so a position is on one side only.

    The most frequent sequence is the wild type. Its copies (silent mutations, each with a measurement of its own) are
    left out: one input with many answers, in none of the positions.
    """
    path = shared_file(shared, "protein", "beta_lactamase_fitness.fasta.gz")
    records = list(stream_fasta(path))
    if not records:
        raise InputError(f"{path}: no sequence in it")
    wild_type, copies = Counter(sequence for *_, sequence in records).most_common(1)[0]
    print(f"left out: {copies} copies of the wild type")
    rows = []
    for line, header, sequence in records:
        if sequence != wild_type:
            with as_published(path, line):
                _, name, fitness = header.split("|")
                (position,) = (i for i, (a, b) in enumerate(zip(sequence, wild_type, strict=True), 1) if a != b)
                rows.append(Row(name.split("_")[1], sequence, fitness, f"position {position}"))
    return draw(rows, sizes)
