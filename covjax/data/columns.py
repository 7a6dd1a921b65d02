"""Columns of a table by name: exactly, without case, or by the words that people use for them."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from covjax.data.text import Row
from covjax.errors import InputError, shown

ANSWERS = ("label", "labels", "targets")
# What stands in published tables; compared without case, and with `_` for blanks and hyphens.
SYNONYMS = {
    "sequence": (
        *("seq", "sequences", "protein", "protein_sequence", "protein_seq", "aa", "aa_seq", "aa_sequence"),
        *("amino_acid_sequence", "primary", "dna", "dna_seq", "dna_sequence", "rna", "rna_seq", "rna_sequence"),
        *("nucleotide_sequence", "text", "sentence"),
    ),
    "label": ("class", "category", "target", "y", "localization", "localisation"),
    "labels": ("terms", "go_terms"),
    "targets": (),
    "id": ("name", "accession", "entry", "identifier", "seq_id", "sequence_id", "protein_id"),
    "split": ("set", "fold", "partition"),
    "group": ("cluster", "cluster_id", "family"),
}


def match_columns(
    path: str | Path,
    header: Row,
    names: Mapping[str, str],
    needed: Collection[str] = ("sequence", "label"),
    optional: Collection[str] = ("id", "split", "group"),
) -> dict[str, int]:
    """Find which column is what: {role: index in the header}; the label's role is one of label, labels, targets.

    `names` gives the column of a role as the file spells it (`--sequence-column` and so on; empty: find it). Otherwise
    the role's own name counts first, spelled exactly, then without case and surrounding blanks, then `SYNONYMS`.

    Raises InputError for a column of `needed` that is not there (with what is, and the closest name), for several
    columns that could be meant, a name that stands twice in the header, and a column that is asked for two roles.
    """
    columns: dict[str, int] = {}
    for role in (*needed, *optional):
        if name := names.get(role, ""):
            index = _named(path, header, name, f"--{role}-column")
            if index in columns.values():
                other = next(each for each, taken in columns.items() if taken == index)
                raise InputError(f"{path}: column {shown(name)} is given for both {other} and {role}")
            columns[_kind(header.cells[index]) if role == "label" else role] = index
    for role in (*needed, *optional):
        roles = ANSWERS if role == "label" else (role,)
        if not columns.keys().isdisjoint(roles):
            continue
        free = [i for i in range(len(header.cells)) if i not in columns.values()]
        match = _found(path, header, roles, free, role)
        if match is not None:
            columns[match[0]] = match[1]
        elif role in needed:
            raise InputError(f"{path}: {_missing(header, roles, role)}")
    return columns


def describe_columns(header: Row, columns: Mapping[str, int]) -> str:
    """Say which column was taken for what; empty where every one has its role's own name."""
    if all(header.cells[index] == role for role, index in columns.items()):
        return ""
    order = [role for role in (*("sequence", *ANSWERS), "id", "split", "group") if role in columns]
    return "columns: " + ", ".join(f"{role} = {shown(header.cells[columns[role]].strip(), 40)}" for role in order)


def _kind(name: str) -> str:
    """Of the three kinds of answers the one that a column's name says; label where it says none."""
    return next((role for role in ANSWERS if _plain(name) in (role, *SYNONYMS[role])), "label")


def _found(
    path: str | Path, header: Row, roles: Collection[str], free: list[int], option: str
) -> tuple[str, int] | None:
    tests = (
        lambda name, role: name == role,
        lambda name, role: _plain(name) == role,
        lambda name, role: _plain(name) in SYNONYMS[role],
    )
    for test in tests:
        matches = [(role, i) for role in roles for i in free if test(header.cells[i], role)]
        if len(matches) > 1:
            first, second = (shown(header.cells[i], 40) for _, i in matches[:2])
            if first == second:
                times = header.cells.count(header.cells[matches[0][1]])
                raise InputError(f"{path}: column {first} stands {times} times in the header")
            raise InputError(
                f"{path}: columns {first} and {second} both stand in the header and could be the {option}; "
                f"keep one or name it by --{option}-column"
            )
        if matches:
            return matches[0]
    return None


def _named(path: str | Path, header: Row, name: str, option: str) -> int:
    for same in (lambda a, b: a == b, lambda a, b: a.strip().casefold() == b.strip().casefold()):
        matches = [i for i, cell in enumerate(header.cells) if same(cell, name)]
        if len(matches) > 1:
            raise InputError(f"{path}: {option}: column {shown(name)} stands {len(matches)} times in the header")
        if matches:
            return matches[0]
    hint = _closest(header, [name])
    raise InputError(f"{path}: {option}: no column {shown(name)}; found {_listing(header)}{hint}")


def _missing(header: Row, roles: Collection[str], option: str) -> str:
    if header.cells[0].startswith(">"):
        return f"it looks like FASTA (line {header.line} begins with '>'); name it .fasta and give --label-regex"
    hint = _closest(header, [name for role in roles for name in (role, *SYNONYMS[role])])
    if len(header.cells) == 1 and {*header.cells[0]} & {*" |:"}:
        hint = "; cells are separated by comma, tab or semicolon"
    elif any(len(cell) >= 20 and cell.isalpha() and cell.isupper() for cell in header.cells):
        hint = "; the first line must be a header with the names of the columns"
    wanted = " or ".join(repr(role) for role in roles)
    return f"missing column {wanted}; found {_listing(header)}{hint}; name the column by --{option}-column"


def _closest(header: Row, names: list[str]) -> str:
    plain = {_plain(cell): cell for cell in reversed(header.cells)}
    for name in names:
        if close := difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.75):
            return f"; did you mean {shown(plain[close[0]], 40)}?"
    return ""


def _listing(header: Row) -> str:
    cells = [cell.strip() for cell in header.cells]
    cells = [cell if len(cell) <= 40 and cell.isprintable() else shown(cell, 40) for cell in cells]
    return ", ".join(cells[:12]) + (f" and {len(cells) - 12} more" if len(cells) > 12 else "")


def _plain(name: str) -> str:
    return "_".join(name.strip().casefold().replace("-", " ").replace("_", " ").split())
