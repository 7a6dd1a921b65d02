"""Gene Ontology molecular function of Swiss-Prot proteins, one protein a 30 %-identity cluster."""

import dataclasses
from collections import Counter
from pathlib import Path

from covjax.data.related import kmers, linked
from covjax.data.splits import SPLITS
from covjax.sources.draw import Sizes, draw
from covjax.sources.rows import Row, as_published, read_records, shared_file, with_groups

MAX_LENGTH = 400  # residues
NUM_TERMS = 80
MIN_POSITIVES = 5  # of every term in every split
K = 30  # proteins of two clusters may still share a whole domain, such as ubiquitin


def build(shared: Path, sizes: Sizes) -> list[Row]:
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
        if len(sequence) <= MAX_LENGTH:
            with as_published(path, line):
                terms = [f"{term} {names[term]}" for term in kept.split(";") if term]
            rows.append(Row(accession, sequence, ";".join(terms), "", "test" if split == "valid" else ""))
    rows = with_groups(rows, linked([kmers(row.sequence, K) for row in rows]))
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
