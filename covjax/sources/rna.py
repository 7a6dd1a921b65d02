"""RNA data sets: degradation of the OpenVaccine molecules."""

from pathlib import Path

import numpy as np

from covjax.data.rna import KINDS, loop_kinds
from covjax.sources.draw import (
    Row,
    Sizes,
    as_published,
    draw,
    kmers,
    overlapping,
    read_records,
    shared_file,
    with_groups,
    without_copies,
)

HEAD, TAIL = 5, 21  # nt of constant sequence at either end
RELATED_K, SHARE = 8, 0.3
STRUCTURE = tuple(KINDS.values())  # numeric columns of the table
PROFILES = ("reactivity", "deg_50C")


def degradation(shared: Path, sizes: Sizes) -> list[Row]:
    """RNAs of 107 nt; targets are k_deg per hour and the means of the profiles `PROFILES` over the measured bases.

    The sequence is written in DNA letters, T for U, because that is what encoders of DNA read. k_deg is 0.2 times the
    mean of the profile deg_Mg_pH10 (correlation 0.998), so that profile is no target. The columns `STRUCTURE` are the
    fractions of bases that are paired, or unpaired in each kind of loop, of the structure in the file.

    None in two groups share 30 % of the smaller one's 8-mers between the constant ends: designs are edited copies of
    each other.
    """
    path = shared_file(shared, "rna", "degscore.tsv.gz")
    rows = []
    names = ("id", "sequence", "structure", "k_deg_per_hour", *PROFILES)
    for line, (name, sequence, structure, rate, *profiles) in read_records(path, "\t", names):
        with as_published(path, line):
            targets = [float(rate), *(np.array(profile.split(";"), float).mean() for profile in profiles)]
            if set(sequence) - set("ACGU"):
                raise ValueError(f"letters {sorted(set(sequence) - set('ACGU'))} in an RNA")
            kinds = loop_kinds(structure)
            if len(kinds) != len(sequence):
                raise ValueError(f"a structure of {len(kinds)} and a sequence of {len(sequence)} bases")
        answer = ";".join(f"{value:.6g}" for value in targets)
        shares = tuple(kinds.count(letter) / len(kinds) for letter in KINDS)
        rows.append(Row(name, sequence.replace("U", "T"), answer, "", covariates=shares))
    print("letters: U of RNA is written as T, which encoders of DNA read")
    rows = without_copies(rows)
    inner = [kmers(row.sequence[HEAD:-TAIL], RELATED_K) for row in rows]
    return draw(with_groups(rows, overlapping(inner, SHARE)), sizes)
