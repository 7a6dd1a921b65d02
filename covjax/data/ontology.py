"""Gene Ontology labels for sequences, from the published files: OBO, GAF and FASTA.

    python -m covjax.data.ontology --obo go-basic.obo --gaf goa_human.gaf.gz --fasta proteins.fasta --output go.csv.gz

Annotations are filtered by evidence, NOT ones left out, carried up to all ancestors over is_a and part_of, and kept
where enough sequences have the term and enough have not.
"""

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from covjax.data.gene_ontology import COLUMNS, EXPERIMENTAL, Annotation, Ontology, read_gaf, read_obo
from covjax.data.targets import is_missing
from covjax.data.text import Report, Skipped, stream_fasta, warn
from covjax.errors import InputError, shown
from covjax.jobs.cli import exit_on_input_error
from covjax.jobs.disk import new_text, text_cell

COMMAND = "python -m covjax.data.ontology"


def propagate(
    annotations: Iterable[Annotation], ontology: Ontology, namespace: str, report: Report = warn
) -> dict[str, set[str]]:
    """Terms of every name, with all ancestors, in one namespace (`molecular_function`, …); its root is left out.

    Part_of may lead from one namespace to another; only terms of the asked one are returned. Annotations to obsolete
    terms without a replacement and to terms that the ontology lacks are left out; `report` is told how many.

    Raises InputError for a namespace that no term has, and where too many terms are unknown: another release, or
    another ontology (see `Skipped`).
    """
    if namespace not in ontology.namespaces.values():
        known = ", ".join(sorted(set(ontology.namespaces.values())))
        raise InputError(f"namespace: {shown(namespace)} is not one of {known}")
    direct: defaultdict[str, set[str]] = defaultdict(set)
    skipped, sound, obsolete = Skipped("annotations", "annotations"), 0, 0
    for names, term in annotations:
        if term not in ontology.names and term not in ontology.moved:
            who = shown(names[0], 60) if names else "a product"
            skipped.add(f"{who}: term: {shown(term, 60)} is not in the ontology (another release?)")
            continue
        sound += 1
        if (current := ontology.current(term)) is None:
            obsolete += 1
            continue
        for name in names:
            direct[name].add(current)
    skipped.close(sound, report)
    if obsolete:
        report(f"annotations: left out {obsolete:,} to obsolete terms without a replacement")
    wanted = {term for term, own in ontology.namespaces.items() if own == namespace and ontology.parents[term]}
    above = {term: ontology.with_ancestors({term}) & wanted for term in set().union(*direct.values())}
    labels = {name: set().union(*(above[term] for term in terms)) for name, terms in direct.items()}
    return {name: terms for name, terms in labels.items() if terms}


def frequent(labels: Iterable[set[str]], least: int) -> set[str]:
    """Terms that at least `least` of the label sets have and at least `least` do not have."""
    labels = list(labels)
    counts = Counter(term for terms in labels for term in terms)
    return {term for term, count in counts.items() if least <= count <= len(labels) - least}


def accession(header: str) -> str:
    """First word of a FASTA header; of `sp|P12345|NAME` and `tr|…|…` the middle part."""
    first = (header.split() or [""])[0]
    parts = first.split("|")
    return parts[1] if len(parts) == 3 and parts[0] in ("sp", "tr") else first


def group_of(header: str) -> str:
    """The value of `group=…` in a FASTA header (as `covjax.data.genes` writes it), or nothing."""
    return next((word[6:] for word in header.split() if word.startswith("group=")), "")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, text in (
        ("obo", "the ontology"),
        ("gaf", "the annotations (GAF 2.x)"),
        ("fasta", "the sequences; `group=…` in a header gives its group"),
        ("output", "the table to write: .csv or .csv.gz"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--namespace", default="molecular_function", help="(default: %(default)s)")
    parser.add_argument("--evidence", default="experimental", help="codes such as IDA,IPI; experimental; or all")
    parser.add_argument("--match", default="id", choices=COLUMNS, help="GAF column that holds the FASTA's accessions")
    parser.add_argument("--min-count", type=int, default=50, help="sequences with, and without, every kept term")
    flags = parser.parse_args(sys.argv[1:] if argv is None else argv)
    with exit_on_input_error(COMMAND):
        write_labels(
            flags.obo,
            flags.gaf,
            flags.fasta,
            flags.output,
            flags.namespace,
            flags.evidence,
            flags.match,
            flags.min_count,
        )


def write_labels(
    obo: Path,
    gaf: Path,
    fasta: Path,
    output: Path,
    namespace: str = "molecular_function",
    evidence: str = "experimental",
    match: str = "id",
    min_count: int = 50,
) -> None:
    """Write the table id, sequence, labels of all annotated sequences; prints counts and what is left out.

    Where headers name groups the table has them as a column; a sequence without one is then a group of its own. Where
    none does there is no such column: a group for every sequence would only look like a split by relatives.

    Records of the files that cannot be read or used are left out and counted at the end: a FASTA record without a
    sequence, and a second one of an id.

    A sequence without any annotation left is no example of anything and gets no row; one whose terms are all too rare
    keeps its row without labels.

    Raises InputError for bad files and options, ids that do not match, and no term that is frequent enough.
    """
    if not output.name.endswith((".csv", ".csv.gz")):
        raise InputError(f"output: {output} must end in .csv or .csv.gz")
    if min_count < 1:
        raise InputError(f"min_count: {min_count} must be >= 1")
    codes = {"experimental": EXPERIMENTAL, "all": None}.get(evidence, frozenset(evidence.split(",")))
    notes: list[str] = []
    ontology = read_obo(obo, notes.append)
    labels = propagate(read_gaf(gaf, codes, match, notes.append), ontology, namespace, notes.append)
    records = _records(fasta, notes.append)
    annotated = [record for record in records if record[0] in labels]
    if not annotated:
        raise InputError(
            f"{fasta}: none of {len(records)} sequences is annotated; its first id is "
            f"{shown(records[0][0] if records else None, 60)}, the annotations' is "
            f"{shown(next(iter(labels), None), 60)} (see --match)"
        )
    kept = frequent((labels[name] for name, *_ in annotated), min_count)
    if not kept:
        raise InputError(
            f"min_count: no term has {min_count} of the {len(annotated)} annotated sequences with and without it"
        )
    grouped = any(group for _, group, _ in annotated)
    with new_text(output) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "sequence", "labels"] + ["group"] * grouped)
        for name, group, sequence in annotated:
            terms = (f"{term} {ontology.names[term].replace(';', ',')}" for term in sorted(labels[name] & kept))
            writer.writerow(map(text_cell, [name, sequence, ";".join(terms)] + [group or name] * grouped))
    print(
        f"{output}: {len(annotated)} sequences, {len(kept)} terms of {namespace}; "
        f"left out: {len(records) - len(annotated)} sequences without annotation"
    )
    for note in notes:
        print(note)


def _records(fasta: Path, report: Report) -> list[tuple[str, str, str]]:
    """Id, group and sequence of the FASTA records that a table can hold: with a sequence, each id once."""
    skipped, records = Skipped(fasta, "sequences"), dict[str, tuple[str, str, str]]()
    for line, header, sequence in stream_fasta(fasta):
        name = accession(header)
        if is_missing(name) or not sequence:
            skipped.add(f"{shown(name, 60)} has no {'id' if is_missing(name) else 'sequence'}", line)
        elif name in records:
            skipped.add(f"{shown(name, 60)} is already there", line)
        else:
            group = group_of(header)
            records[name] = name, "" if is_missing(group) else group, sequence
    skipped.close(len(records), report)
    return list(records.values())


if __name__ == "__main__":
    main()
