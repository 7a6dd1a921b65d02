"""Annotations from a GAF 2.x file (GO Consortium, GO Annotation File format 2.2)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from covjax.data.skipped import Report, Skipped, warn
from covjax.data.text import text_lines
from covjax.errors import InputError, shown

EXPERIMENTAL = frozenset(("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "HTP", "HDA", "HMP", "HGI", "HEP"))
COLUMNS = {"id": 1, "symbol": 2, "synonym": 10}  # counted from 0


class Annotation(NamedTuple):
    """One gene product and one term; `names` are what the chosen column calls the product."""

    names: tuple[str, ...]
    term: str


def read_gaf(
    path: str | Path, evidence: frozenset[str] | None = EXPERIMENTAL, match: str = "id", report: Report = warn
) -> Iterator[Annotation]:
    """Yield the annotations whose evidence code is in `evidence` (None: all of them), in the order of the file.

    Never yielded: a qualifier NOT (the product was found not to have the function) and the code ND (nobody knows).
    `match` says where the product's names stand: `id` (column 2), `symbol` (column 3) or `synonym` (column 11,
    separated by `|`).

    Lines of fewer than the 15 columns that a 2.x file requires, and without a product's id, a term or an evidence code,
    are left out and given to `report` in one summary at the end.

    Raises InputError for an unreadable file, another `match`, a version other than 2.x or none in the header (GPAD and
    GPI by name), and too many odd lines (see `Skipped`).
    """
    if match not in COLUMNS:
        raise InputError(f"match: {match!r} is not one of {', '.join(COLUMNS)}")
    skipped, sound = Skipped(path, "annotations"), 0
    version = ""
    for number, line in text_lines(path):
        if line.startswith("!"):
            version = _version(path, line) or version
            continue
        if not line.strip():
            continue
        _refuse_other(path, version)
        fields = line.split("\t")
        if len(fields) < 15:
            skipped.add(f"{len(fields)} columns, fewer than the 15 of GAF 2.x", number)
            continue
        code = fields[6].strip()
        if not (fields[1].strip() and fields[4].strip() and code):
            skipped.add("no id of the product, no term or no evidence code in columns 2, 5 and 7", number)
            continue
        sound += 1
        if code == "ND" or not (evidence is None or code in evidence):
            continue
        qualifier = fields[3].upper()
        if "NOT" in qualifier and "NOT" in re.split(r"[\s|]+", qualifier):
            continue
        names = (name.strip() for name in fields[COLUMNS[match]].split("|"))
        yield Annotation(tuple(name for name in names if name), fields[4].strip())
    _refuse_other(path, version)
    skipped.close(sound, report)
    if not sound:
        raise InputError(f"{path}: no annotation in it")


def _refuse_other(path: str | Path, version: str) -> None:
    if not re.match(r"2(\.|$)", version):
        raise InputError(f"{path}: gaf-version {shown(version, 60)} in the header; 2.x is read")


def _version(path: str | Path, line: str) -> str:
    """The version that a header line gives, or nothing; InputError for the headers of related formats."""
    key, _, value = line[1:].partition(":")
    if key.strip().lower() in ("gpa-version", "gpad-version", "gpi-version"):
        raise InputError(f"{path}: {shown(line, 60)}: GPAD or GPI; the GAF file of the same release is read")
    return value.strip() if key.strip().lower() == "gaf-version" else ""
