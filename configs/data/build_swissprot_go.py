"""Build the quickstart's table from the Swiss-Prot / GO file described in the data card beside this script.

    python configs/data/build_swissprot_go.py --source ../shared/data/go

Deterministic: the same source gives the same bytes (seeded sampling, gzip without a time stamp).
"""

import argparse
import csv
import gzip
import io
from collections import defaultdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[2] / "covjax" / "tasks" / "quickstart"
OUTPUT = HERE / "swissprot_go_mf.csv.gz"
TERMS = HERE / "swissprot_go_mf_terms.csv"
MAX_LENGTH = 300  # residues
SIZES = {"train": 1600, "validation": 400, "test": 400}
NUM_TERMS = 25
PREVALENCE = (0.03, 0.50)  # of all proteins short enough
MAX_JACCARD = 0.7  # a term that nearly repeats a more frequent one adds weight, not information, to a macro average
MIN_POSITIVES = 8  # of each term in each split, so that every per-term metric is defined and not one protein's luck


def choose_terms(rows: list[dict]) -> list[str]:
    """Most frequent terms within the prevalence bounds, skipping near-repeats of one already chosen."""
    members = defaultdict(set)
    for i, row in enumerate(rows):
        for term in row["terms"]:
            members[term].add(i)
    chosen: list[str] = []
    for term in sorted(members, key=lambda t: (-len(members[t]), t)):
        share = len(members[term]) / len(rows)
        near = (len(members[term] & members[c]) / len(members[term] | members[c]) for c in chosen)
        if PREVALENCE[0] <= share <= PREVALENCE[1] and all(j <= MAX_JACCARD for j in near):
            chosen.append(term)
    return chosen[:NUM_TERMS]


def sample(rows: list[dict], terms: list[str], seed: int = 0) -> dict[str, list[dict]]:
    """Train and validation from the source's train clusters, test from its held-out clusters; one protein a cluster."""
    rng = np.random.default_rng(seed)
    eligible = [dict(row, terms=[t for t in terms if t in row["terms"]]) for row in rows]
    eligible = [row for row in eligible if row["terms"]]
    pools = {split: [r for r in eligible if r["split"] == split] for split in ("train", "valid")}
    order = rng.permutation(len(pools["train"]))
    held_out = rng.permutation(len(pools["valid"]))
    cut = SIZES["train"]
    picked = {
        "train": [pools["train"][i] for i in order[:cut]],
        "validation": [pools["train"][i] for i in order[cut : cut + SIZES["validation"]]],
        "test": [pools["valid"][i] for i in held_out[: SIZES["test"]]],
    }
    for split, part in picked.items():
        for term in terms:
            positives = sum(term in row["terms"] for row in part)
            if positives < MIN_POSITIVES:
                raise SystemExit(f"{term} has {positives} positives in {split}, fewer than {MIN_POSITIVES}")
    return picked


def main() -> None:
    """Read the source, choose terms, sample proteins, write the table and the list of terms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with swissprot_go_mf.tsv.gz and terms.tsv")
    source = parser.parse_args().source
    with gzip.open(source / "swissprot_go_mf.tsv.gz", "rt") as file:
        rows = [
            dict(row, terms=set(row["mf_terms_propagated_kept"].split(";")) - {""})
            for row in csv.DictReader(file, delimiter="\t")
            if len(row["sequence"]) <= MAX_LENGTH
        ]
    terms = choose_terms(rows)
    picked = sample(rows, terms)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", "group", "labels", "sequence"])
    for split, part in picked.items():
        for row in part:
            # One representative per cluster, so the accession names the cluster.
            writer.writerow([row["accession"], split, row["accession"], ";".join(row["terms"]), row["sequence"]])
    with open(OUTPUT, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.getvalue().encode())

    with open(source / "terms.tsv") as file:
        names = {row["go_id"]: row["name"] for row in csv.DictReader(file, delimiter="\t")}
    with open(TERMS, "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["label", "name", *SIZES])
        for term in terms:
            counts = [sum(term in row["terms"] for row in part) for part in picked.values()]
            writer.writerow([term, names[term], *counts])
    print(f"{OUTPUT.name}: {sum(map(len, picked.values()))} proteins, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
