"""An ontology from an OBO file (OBO format 1.2 and 1.4): terms, their parents, and what replaced what."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from covjax.data.text import text_lines
from covjax.errors import InputError


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
            raise InputError(f"term: {term!r} is not in the ontology (another release?)")
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


def read_obo(path: str | Path) -> Ontology:
    """Read the [Term] stanzas; other stanzas, other relations and trailing comments are passed over.

    An obsolete term leads to its `replaced_by` where there is exactly one; `consider` is advice for people, not used.

    Raises InputError for an unreadable file, no term at all, a term without a name, one id for two terms, and a parent
    or replacement that is not a current term.
    """
    names: dict[str, str] = {}
    namespaces: dict[str, str] = {}
    parents: dict[str, tuple[str, ...]] = {}
    moved: dict[str, str | None] = {}
    default = ""
    for kind, stanza in _stanzas(path):
        if kind == "header":
            default = (stanza["default-namespace"] or [""])[0]
        if kind != "[Term]":
            continue
        if not stanza["id"] or not stanza["name"]:
            raise InputError(f"{path}: a term without id or name: {dict(stanza)}")
        term = stanza["id"][0]
        if term in names or term in moved:
            raise InputError(f"{path}: term {term!r} stands twice")
        if stanza["is_obsolete"] == ["true"]:
            moved[term] = stanza["replaced_by"][0] if len(stanza["replaced_by"]) == 1 else None
            continue
        part_of = [value.split()[1] for value in stanza["relationship"] if value.split()[0] == "part_of"]
        names[term] = stanza["name"][0]
        namespaces[term] = (stanza["namespace"] or [default])[0]
        parents[term] = tuple(dict.fromkeys([value.split()[0] for value in stanza["is_a"]] + part_of))
        for other in stanza["alt_id"]:
            moved[other] = term
    if not names:
        raise InputError(f"{path}: no current term in it")
    for term, above in parents.items():
        for parent in above:
            if parent not in names:
                raise InputError(f"{path}: term {term!r}: parent {parent!r} is not a current term")
    for term in moved:  # an obsolete term may be replaced by one that has moved on itself
        target, passed = moved[term], {term}
        while target is not None and target in moved and target not in passed:
            passed.add(target)
            target = moved[target]
        if target is not None and target not in names:
            raise InputError(f"{path}: term {term!r}: replacement {target!r} is not a current term")
        moved[term] = target
    return Ontology(names, namespaces, parents, moved)


def _stanzas(path: str | Path) -> Iterator[tuple[str, defaultdict[str, list[str]]]]:
    kind, stanza = "header", defaultdict[str, list[str]](list)
    for _, raw in text_lines(path):
        line = raw.strip()
        if line.startswith("["):
            yield kind, stanza
            kind, stanza = line, defaultdict(list)
        elif ": " in line and not line.startswith("!"):
            key, value = line.split(": ", 1)
            if key != "name" and key != "def":  # a name may hold " ! " and braces of its own
                value = value.split(" ! ")[0].split(" {")[0]
            stanza[key].append(value.strip())
    yield kind, stanza
