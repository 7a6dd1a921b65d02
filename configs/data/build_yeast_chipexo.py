"""Build the DNA quickstart's table: a chromosome of the source `yeast_chipexo`, which yeast-lm was not trained on.

    python configs/data/build_yeast_chipexo.py --shared ../shared

Deterministic: the same source gives the same bytes (gzip without a time stamp).
"""

import argparse
import csv
import gzip
import io
from pathlib import Path

import numpy as np

from covjax.sources import SOURCES
from covjax.sources.yeast import chipexo

HERE = Path(__file__).resolve().parents[2] / "covjax" / "tasks" / "quickstart"
OUTPUT = HERE / "yeast_chr4_chipexo.csv.gz"
PROTEINS = HERE / "yeast_chr4_chipexo_proteins.csv"
CHROMOSOME = "chr4"
FEWEST = 100  # windows of the chromosome with a peak, of every protein


def main() -> None:
    """Take the chromosome's windows without those that have near copies elsewhere; write the table and the proteins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real data (COVJAX_SHARED)")
    source = SOURCES["yeast_chipexo"]
    every, names = chipexo(parser.parse_args().shared, source.sizes)
    rows = [row for row in every if row.id.startswith(f"{CHROMOSOME}:") and not row.group.startswith("copies of")]
    rows.sort(key=lambda row: int(row.id.split(":")[1].split("-")[0]))
    values = np.array([[float(value) for value in row.answer.split(";")] for row in rows])
    many = np.flatnonzero((values > 0).sum(0) >= FEWEST)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "group", "targets", *source.covariates, "sequence"])
    for row, own in zip(rows, values):
        answer = ";".join(f"{value:.4g}" for value in own[many])
        writer.writerow([row.id, row.group, answer, *(f"{number:.4g}" for number in row.covariates), row.sequence])
    with open(OUTPUT, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.getvalue().encode())
    with open(PROTEINS, "w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["label", "name", "windows"])
        for place, output in enumerate(many, 1):
            table.writerow([f"target{place}", names[output], (values[:, output] > 0).sum()])
    print(f"{OUTPUT.name}: {len(rows)} windows x {len(many)} proteins, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
