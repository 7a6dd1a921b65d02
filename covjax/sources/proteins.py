"""Protein data sets: Gene Ontology, enzyme classes, subcellular localisation, beta-lactamase mutants."""

import dataclasses
from collections import Counter
from pathlib import Path

from covjax.data.splits import SPLITS
from covjax.data.text import stream_fasta
from covjax.errors import InputError
from covjax.sources.draw import (
    Row,
    Sizes,
    as_published,
    draw,
    kmers,
    linked,
    overlapping,
    read_records,
    shared_file,
    with_groups,
    without_copies,
)

GO_MAX_LENGTH = 400  # residues
NUM_TERMS = 80
MIN_POSITIVES = 5  # of every term in every split
GO_K = 30  # proteins of two clusters may still share a whole domain, such as ubiquitin


def go(shared: Path, sizes: Sizes) -> list[Row]:
    """Proteins of at most 400 residues; test from the clusters the file holds out, validation from the others.

    Terms: the 80 most frequent of the drawn training proteins with at least 5 positives in every split; a protein with
    none of them stays, as an example without any. Proteins that share a 30-mer are one group.
    """
    named = read_records(shared_file(shared, "go", "terms.tsv"), "\t", ("go_id", "name"))
    names = {term: name.replace(";", ",") for _, (term, name) in named}
    rows = []
    path = shared_file(shared, "go", "swissprot_go_mf.tsv.gz")
    columns = ("accession", "sequence", "mf_terms_propagated_kept", "split")
    for line, (accession, sequence, kept, split) in read_records(path, "\t", columns):
        if len(sequence) <= GO_MAX_LENGTH:
            with as_published(path, line):
                terms = [f"{term} {names[term]}" for term in kept.split(";") if term]
            rows.append(Row(accession, sequence, ";".join(terms), "", "test" if split == "valid" else ""))
    rows = with_groups(rows, linked([kmers(row.sequence, GO_K) for row in rows]))
    return _keep_terms(draw(rows, sizes))


def _keep_terms(rows: list[Row]) -> list[Row]:
    counts = {
        split: Counter(term for row in rows if row.split == split for term in row.answer.split(";") if term)
        for split in SPLITS
    }
    enough = [t for t in counts["train"] if min(count[t] for count in counts.values()) >= MIN_POSITIVES]
    kept = set(sorted(enough, key=lambda t: (-counts["train"][t], t))[:NUM_TERMS])
    return [
        dataclasses.replace(row, answer=";".join(term for term in row.answer.split(";") if term in kept))
        for row in rows
    ]


EC_LENGTHS = (50, 1000)  # residues


def ec(shared: Path, sizes: Sizes) -> list[Row]:
    """Enzymes of 50 to 1,000 residues with their third-level classes (2.7.11), several where they have several.

    3 % have two or three such classes, so the task is multilabel. Shorter ones are left out: they are pieces of
    enzymes that were sequenced from an end, down to four residues. Groups as for `deeploc`: the file is thinned at 10 %
    identity, and yet some share domains. Classes: those with at least 5 positives in every split; an enzyme with none
    of them stays, as an example without any.
    """
    rows, shorter, longer = [], 0, 0
    path = shared_file(shared, "protein", "ec_split10.tsv.gz")
    for line, (accession, numbers, sequence) in read_records(path, "\t", ("id", "ec", "sequence")):
        with as_published(path, line):
            classes = {_third_level(number): None for number in numbers.split(";")}
        shorter += len(sequence) < EC_LENGTHS[0]
        longer += len(sequence) > EC_LENGTHS[1]
        if EC_LENGTHS[0] <= len(sequence) <= EC_LENGTHS[1]:
            rows.append(Row(accession, sequence, ";".join(classes), ""))
    print(f"left out: {shorter} enzymes of fewer than {EC_LENGTHS[0]} residues, {longer} of more than {EC_LENGTHS[1]}")
    rows = without_copies(rows)
    rows = with_groups(rows, overlapping([kmers(row.sequence, RELATED_K) for row in rows], SHARE))
    return _keep_terms(draw(rows, sizes))


def _third_level(number: str) -> str:
    """The class 2.7.11 of the EC number 2.7.11.1; ValueError unless it has four parts, the first three numbers."""
    first, second, third, _ = number.split(".")
    return ".".join(str(int(part)) for part in (first, second, third))


DEEPLOC_MAX_LENGTH = 1000  # residues
RELATED_K, SHARE = 5, 0.05
LEAST = 3  # proteins of every class in every split


def deeploc(shared: Path, sizes: Sizes) -> list[Row]:
    """Proteins of at most 1,000 residues; none in two groups share 5 % of the shorter one's distinct 5-mers.

    Two unrelated proteins share well under 1 %. The file is DeepLoc's test partition, so the splits are ours: the first
    draw, of seeds 0, 1, … 99, in which each class has at least 3 proteins in every split (28 peroxisomal ones are few).

    Raises InputError where no draw has.
    """
    rows, longer = [], 0
    path = shared_file(shared, "protein", "deeploc_part.fasta.gz")
    for line, header, sequence in stream_fasta(path):
        with as_published(path, line):
            accession, place, _ = header.split()
        if len(sequence) > DEEPLOC_MAX_LENGTH:
            longer += 1
        else:
            rows.append(Row(accession, sequence, place.rsplit("-", 1)[0].replace(".", " "), ""))
    print(f"left out: {longer} proteins of more than {DEEPLOC_MAX_LENGTH} residues")
    rows = without_copies(rows)
    rows = with_groups(rows, overlapping([kmers(row.sequence, RELATED_K) for row in rows], SHARE))
    classes = {row.answer for row in rows}
    for seed in range(100):
        drawn = draw(rows, sizes, seed)
        counts = Counter((row.split, row.answer) for row in drawn)
        if all(counts[split, place] >= LEAST for split in SPLITS for place in classes):
            print(f"draw: seed {seed}, the first with {LEAST} proteins of every class in every split")
            return drawn
    raise InputError(f"sizes: {sizes} leave some of the {len(classes)} classes under {LEAST} proteins in every draw")


def lactamase(shared: Path, sizes: Sizes) -> list[Row]:
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
