"""Files of the Gene Ontology: terms (OBO) and annotations (GAF)."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from covjax.data.text import Report, Skipped, text_lines, warn
from covjax.errors import InputError, shown

DECISIVE = ("id", "alt_id", "is_a", "relationship", "is_obsolete", "replaced_by")  # tags that are read, but for names


@dataclasses.dataclass(frozen=True)
class Ontology:
    """Current terms with name, namespace and parents (is_a and part_of).

    `moved` leads from alternative and obsolete ids to the current one, or to None where an obsolete term has no single
    replacement.
    """

    names: dict[str, str]
    namespaces: dict[str, str]
    parents: dict[str, tuple[str, ...]]
    moved: dict[str, str | None]

    def current(self, term: str) -> str | None:
        """The current id of a term, None for an obsolete one without a replacement; InputError for an unknown id."""
        if term in self.names:
            return term
        if term not in self.moved:
            raise InputError(f"term: {shown(term)} is not in the ontology (another release?)")
        return self.moved[term]

    def with_ancestors(self, terms: set[str]) -> set[str]:
        """The true-path rule: the terms and everything they are or are part of, up to the roots."""
        found, open_terms = set(terms), list(terms)
        while open_terms:
            for parent in self.parents[open_terms.pop()]:
                if parent not in found:
                    found.add(parent)
                    open_terms.append(parent)
        return found


@dataclasses.dataclass
class _Stanza:
    """A stanza as it stands: its kind ("" for the file's header), its first line, the values of every tag."""

    kind: str
    line: int
    tags: defaultdict[str, list[str]] = dataclasses.field(default_factory=lambda: defaultdict(list))

    def first(self, tag: str) -> str:
        return self.tags[tag][0] if self.tags[tag] else ""


def read_obo(path: str | Path, report: Report = warn) -> Ontology:
    """Read the [Term] stanzas; other stanzas, other relations and trailing comments are ignored.

    A term without a name is named by its id. An obsolete term, and so its alternative ids, leads to its `replaced_by`
    where there is exactly one; `consider` is advice for people, not used. Parents are taken under their current id.

    Left out and given to `report` in one summary: a term without an id or with one that stands already, a parent,
    alternative id or replacement that leads to no current term or to two, and a line or stanza that cannot be read.

    Raises InputError for an unreadable file, no current term at all, and too many such records (see `Skipped`).
    """
    skipped = Skipped(path, "records")
    default, terms = "", dict[str, _Stanza]()
    for stanza in _stanzas(path, skipped):
        if stanza.kind == "":
            default = stanza.first("default-namespace")
        if stanza.kind != "[Term]":
            continue
        term = stanza.first("id")
        if not term:
            skipped.add("a term without an id", stanza.line)
        elif term in terms:
            skipped.add(f"term {shown(term, 60)} is already in line {terms[term].line}", stanza.line)
        else:
            terms[term] = stanza
    current = {term: s for term, s in terms.items() if s.first("is_obsolete").lower() != "true"}
    if not current:
        raise InputError(f"{path}: no current term in it")
    moved = _moved(terms, current, skipped)
    parents = {}
    for term, stanza in current.items():
        above = []
        for parent in _named_parents(stanza, skipped):
            place = parent if parent in current else moved.get(parent)
            if place is None:
                skipped.add(f"term {shown(term, 60)}: parent {shown(parent, 60)} is not a current term", stanza.line)
            elif place != term:
                above.append(place)
        parents[term] = tuple(dict.fromkeys(above))
    skipped.close(len(terms) + len(moved) + sum(map(len, parents.values())), report)
    return Ontology(
        {term: stanza.first("name") or term for term, stanza in current.items()},
        {term: stanza.first("namespace") or default for term, stanza in current.items()},
        parents,
        moved,
    )


def _named_parents(stanza: _Stanza, skipped: Skipped) -> Iterator[str]:
    """The parents as the stanza has them: those of is_a, then those of part_of."""
    for value in stanza.tags["is_a"]:
        yield value
    for value in stanza.tags["relationship"]:
        relation, _, target = value.partition(" ")
        if not target.strip():
            skipped.add(f"relationship {shown(value, 60)} without a term", stanza.line)
        elif relation == "part_of":
            yield target.strip()


def _moved(terms: dict[str, _Stanza], current: dict[str, _Stanza], skipped: Skipped) -> dict[str, str | None]:
    """Where every obsolete and alternative id leads: to a current term, by whatever steps, or to None."""
    step: dict[str, str | None] = {}
    for term, stanza in terms.items():
        if term not in current:
            replacements = stanza.tags["replaced_by"]
            step[term] = replacements[0] if len(replacements) == 1 else None
    for term, stanza in terms.items():
        for other in stanza.tags["alt_id"]:
            if other in current and other != term:
                skipped.add(f"term {shown(term, 60)}: alt_id {shown(other, 60)} is a current term", stanza.line)
            elif step.get(other) not in (None, term):
                skipped.add(f"term {shown(term, 60)}: alt_id {shown(other, 60)} leads elsewhere already", stanza.line)
            elif other != term:
                step[other] = term
    moved: dict[str, str | None] = {}
    for term in step:
        target, passed = step[term], {term}
        while target in step and target not in passed:
            passed.add(target)
            target = step[target]
        if target is not None and target not in current:
            line = terms[term].line if term in terms else None
            skipped.add(f"term {shown(term, 60)}: replacement {shown(target, 60)} is not a current term", line)
            target = None
        moved[term] = target
    return moved


def _stanzas(path: str | Path, skipped: Skipped) -> Iterator[_Stanza]:
    stanza = _Stanza("", 1)
    for number, line in _joined_lines(path):
        line = line.strip()
        if not line or line.startswith("!"):
            continue
        if line.startswith("["):
            yield stanza
            kind = _bare(line)
            stanza = _Stanza(kind, number)
            if not re.fullmatch(r"\[\w+\]", kind):
                skipped.add(f"{shown(line, 60)} begins no stanza", number)
            continue
        tag, colon, value = line.partition(":")
        value = value.strip() if tag in ("name", "def") else _bare(value)  # a name may hold " ! " and braces
        if colon and value:
            stanza.tags[tag.strip()].append(_plain(value))
        elif stanza.kind == "[Term]" and (not colon or tag in DECISIVE):
            skipped.add(f"not a tag and its value: {shown(line, 60)}", number)
    yield stanza


def _joined_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that ends with a backslash goes on in the next."""
    start, parts = 0, list[str]()
    for number, line in text_lines(path):
        start = start if parts else number
        more = line.endswith("\\") and (len(line) - len(line.rstrip("\\"))) % 2 == 1
        if not (more or parts):
            yield number, line
            continue
        parts.append(line[:-1] if more else line)
        if not more:
            yield start, "".join(parts)
            parts = []
    if parts:
        yield start, "".join(parts)


def _bare(value: str) -> str:
    """A value without its trailing comment and qualifiers."""
    return re.split(r"\s+[!{]", " " + value)[0].strip() if "!" in value or "{" in value else value.strip()


def _plain(value: str) -> str:
    """A value without its escapes; a line end, a tab or `\\W` becomes a blank, so that names stay on one line."""
    return re.sub(r"\\(.)", lambda match: " " if match[1] in "ntW" else match[1], value) if "\\" in value else value


EXPERIMENTAL = frozenset(("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "HTP", "HDA", "HMP", "HGI", "HEP"))
COLUMNS = {"id": 1, "symbol": 2, "synonym": 10}  # counted from 0


class Annotation(NamedTuple):
    """One gene product and one term; `names` are the product's names in the chosen column."""

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
