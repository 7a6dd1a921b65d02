"""Annotations from a GAF 2.x file (GO Consortium, GO Annotation File format 2.2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from covjax.data.text import text_lines
from covjax.errors import InputError

EXPERIMENTAL = frozenset(("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "HTP", "HDA", "HMP", "HGI", "HEP"))
COLUMNS = {"id": 1, "symbol": 2, "synonym": 10}  # counted from 0


class Annotation(NamedTuple):
    """One gene product and one term; `names` are what the chosen column calls the product."""

    names: tuple[str, ...]
    term: str


def read_gaf(
    path: str | Path, evidence: frozenset[str] | None = EXPERIMENTAL, match: str = "id"
) -> Iterator[Annotation]:
    """Yield the annotations whose evidence code is in `evidence` (None: all of them), in the order of the file.

    Never yielded: a qualifier NOT (the product was found not to have the function) and the code ND (nobody knows).
    `match` says where the product's names stand: `id` (column 2), `symbol` (column 3) or `synonym` (column 11,
    separated by `|`).

    Raises InputError for an unreadable file, another `match`, a version other than 2.x or none in the header, and,
    naming the line, for fewer than the 15 columns that a 2.x file requires.
    """
    if match not in COLUMNS:
        raise InputError(f"match: {match!r} is not one of {', '.join(COLUMNS)}")
    version = ""
    for number, line in text_lines(path):
        if line.startswith("!"):
            if line.startswith("!gaf-version:"):
                version = line.split(":", 1)[1].strip()
            continue
        if not version.startswith("2"):
            raise InputError(f"{path}: gaf-version {version!r} in the header; 2.x is read")
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) < 15:
            raise InputError(f"{path}: line {number}: {len(fields)} columns, fewer than the 15 of GAF 2.x")
        code = fields[6]
        if code == "ND" or "NOT" in fields[3].split("|") or not (evidence is None or code in evidence):
            continue
        yield Annotation(tuple(name for name in fields[COLUMNS[match]].split("|") if name), fields[4])
