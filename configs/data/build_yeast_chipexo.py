"""Build the DNA quickstart's table: one yeast chromosome in windows of 1 kb, and the peaks of proteins in each.

    python configs/data/build_yeast_chipexo.py --source ../shared/data/yeast

Deterministic: the same source gives the same bytes (gzip without a time stamp).
"""

import argparse
import csv
import gzip
import io
import math
from collections import Counter, defaultdict
from pathlib import Path

from covjax.data.near_copies import near_copies

HERE = Path(__file__).resolve().parents[2] / "covjax" / "tasks" / "quickstart"
OUTPUT = HERE / "yeast_chr4_chipexo.csv.gz"
PROTEINS = HERE / "yeast_chr4_chipexo_proteins.csv"
CHROMOSOME = "chr4"  # held out from the training of yeast-lm
WINDOW, BLOCK = 1000, 50_000  # bases; windows of one block are on one side of the split
SPLITS = ("train", "train", "test", "train", "validation")  # of the blocks in turn
MIN_WINDOWS = 100  # windows with a peak, of every protein


def read_chromosome(path: Path) -> str:
    """The bases of `CHROMOSOME`."""
    with gzip.open(path, "rt") as file:
        for record in file.read().split(">")[1:]:
            name, _, bases = record.partition("\n")
            if name.split()[0] == CHROMOSOME:
                return bases.replace("\n", "").upper()
    raise SystemExit(f"{path}: no record {CHROMOSOME}")


def count_peaks(path: Path) -> dict[str, Counter[int]]:
    """{protein: {number of a window: peaks in it}}, of the chromosome."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["chrom"] == CHROMOSOME:
                counts[row["protein"]][int(row["position"]) // WINDOW] += 1
    return counts


def main() -> None:
    """Read the source, cut windows, leave out near copies between blocks, write the table and the proteins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with sacCer3.fa.gz and chipexo_peaks.tsv.gz")
    source = parser.parse_args().source
    chromosome = read_chromosome(source / "sacCer3.fa.gz")
    windows = [chromosome[start : start + WINDOW] for start in range(0, len(chromosome) - WINDOW + 1, WINDOW)]
    block = [number * WINDOW // BLOCK for number in range(len(windows))]
    copies = near_copies(windows, "dna").tolist()
    blocks = defaultdict(set)
    for number, family in enumerate(copies):
        blocks[family].add(block[number])
    chosen = [number for number, family in enumerate(copies) if len(blocks[family]) == 1]
    counts = count_peaks(source / "chipexo_peaks.tsv.gz")
    proteins = sorted(protein for protein, peaks in counts.items() if sum(n in peaks for n in chosen) >= MIN_WINDOWS)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", "group", "targets", "sequence"])
    for number in chosen:
        start = number * WINDOW
        values = ";".join(f"{math.log1p(counts[protein][number]):.4g}" for protein in proteins)
        split = SPLITS[block[number] % len(SPLITS)]
        name = f"{CHROMOSOME}:{start}-{start + WINDOW}"
        writer.writerow([name, split, f"{CHROMOSOME}:{block[number]}", values, windows[number]])
    with open(OUTPUT, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.getvalue().encode())
    with open(PROTEINS, "w", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["label", "name", "windows"])
        for place, protein in enumerate(proteins, 1):
            rows.writerow([f"target{place}", protein, sum(number in counts[protein] for number in chosen)])
    print(f"{OUTPUT.name}: {len(chosen)} windows x {len(proteins)} proteins, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
