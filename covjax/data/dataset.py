"""Labelled sequences from columns of a table: choosing columns and rows, and tidying."""

import dataclasses
import difflib
import functools
import hashlib
import itertools
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from covjax.data.letters import NUCLEOTIDES, gap_text
from covjax.data.spreadsheets import SUFFIXES
from covjax.data.text import Row, read_delimited
from covjax.errors import InputError, shown

ANSWERS = ("label", "labels", "targets")
# What stands in published tables; compared without case, and with `_` for blanks and hyphens.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "sequence": (
        *("seq", "sequences", "protein", "protein_sequence", "protein_seq", "aa", "aa_seq", "aa_sequence"),
        *("amino_acid_sequence", "primary", "dna", "dna_seq", "dna_sequence", "rna", "rna_seq", "rna_sequence"),
        *("nucleotide_sequence", "text", "sentence", "sequence_a", "sequence_1", "sequence1", "seq_a", "seq_1", "seq1"),
    ),
    "sequence_b": ("sequence_2", "sequence2", "seq_b", "seq_2", "seq2"),
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
    """Find the role of each column: {role: index in the header}; the label's role is label, labels or targets.

    `names` gives the column of a role as the file spells it (`--sequence-column` and so on; empty: find it). Otherwise
    the role's own name counts first, spelled exactly, then without case and surrounding blanks, then `SYNONYMS`.

    Raises InputError for a column of `needed` that is not there (with what is, and the closest name), for several
    columns that could be meant, a name that occurs twice in the header, and a column that is asked for two roles.
    """
    columns: dict[str, int] = {}
    for role in (*needed, *optional):
        if name := names.get(role, ""):
            index = named_column(path, header, name, _option(role))
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


def visible_text(text: str) -> str:
    """The text without invisible characters (zero-width spaces, byte order marks), with blanks for all white space."""
    return " ".join("".join(letter for letter in text if unicodedata.category(letter) != "Cf").split())


def describe_columns(header: Row, columns: Mapping[str, int]) -> str:
    """Say which column was used for what; empty if every column has the name of its role."""
    if all(header.cells[index] == role for role, index in columns.items()):
        return ""
    order = [role for role in ("sequence", "sequence_b", *ANSWERS, "id", "split", "group") if role in columns]
    return "columns: " + ", ".join(f"{role} = {shown(header.cells[columns[role]].strip(), 40)}" for role in order)


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')}-column"


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
                raise InputError(f"{path}: column {first} occurs {times} times in the header")
            raise InputError(
                f"{path}: columns {first} and {second} are both in the header and could be the {option}; "
                f"keep one or name it by {_option(option)}"
            )
        if matches:
            return matches[0]
    return None


def named_column(path: str | Path, header: Row, name: str, option: str) -> int:
    """Index in the header of the column that a user named by `option`; InputError where it is not there, or twice."""
    for same in (lambda a, b: a == b, lambda a, b: a.strip().casefold() == b.strip().casefold()):
        matches = [i for i, cell in enumerate(header.cells) if same(cell, name)]
        if len(matches) > 1:
            raise InputError(f"{path}: {option}: column {shown(name)} occurs {len(matches)} times in the header")
        if matches:
            return matches[0]
    hint = _closest(header, [name])
    raise InputError(f"{path}: {option}: no column {shown(name)}; found {_listing(header)}{hint}")


def _missing(header: Row, roles: Collection[str], option: str) -> str:
    if header.cells[0].startswith(">"):
        return f"it looks like FASTA (line {header.line} begins with '>'); name it .fasta and give --label-regex"
    hint = _closest(header, [name for role in roles for name in (role, *SYNONYMS[role])])
    if any(not cell.strip() for cell in header.cells):
        hint = hint or f"; line {header.line} is read as the header: remove a title or comment above it"
    if len(header.cells) == 1 and {*header.cells[0]} & {*" |:"}:
        hint = "; cells are separated by comma, tab or semicolon"
    elif any(len(cell) >= 20 and cell.isalpha() and cell.isupper() for cell in header.cells):
        hint = "; the first line must be a header with the names of the columns"
    wanted = " or ".join(repr(role) for role in roles)
    return f"missing column {wanted}; found {_listing(header)}{hint}; name the column by {_option(option)}"


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
    return "_".join(visible_text(name).casefold().replace("-", " ").replace("_", " ").split())


LONG = 20  # letters without white space, all capitals: no word of a text


def has_words(sequences: Sequence[str]) -> bool:
    """Whether any sequence contains white space, which means that the table holds text."""
    return any(len(sequence.split(None, 1)) > 1 for sequence in sequences)


def tidy_sequences(sequences: Sequence[str], places: Sequence[str], column: str, notes: list[str]) -> tuple[str, ...]:
    """Return the sequences as encoders read them; `places` ("t.csv: line 5") and `column` are for messages.

    Text (white space inside some sequence) comes back with white space stripped at its ends and no other change.
    Residues and nucleotides are upper-cased; the white space of wrapped lines and of blocks of ten is removed, and so
    is one `*` at the end, the stop of a translated reading frame: `notes` gets a line with how many. White space is
    not that of text where the table has only the letters ACGTUN, where half of its sequences are 20 and more capital
    letters without any, or where each sequence that has some is capitals cut into pieces of one length, 10 or more.
    Nucleotides as overlapping k-mers (`ATGC TGCA GCAT`) become the sequence that these are of. A table with other signs
    than letters, `*`, `-` and `.` in most sequences, such as the formulas of molecules, keeps its case.

    Raises InputError for a gap (`-` or `.`) in a sequence of letters, and for a sequence that is only a stop.
    """
    sequences = [sequence.strip() for sequence in sequences]
    if has_words(sequences):
        if not _wrapped(sequences):
            return tuple(sequences)
        spaced = [i for i, sequence in enumerate(sequences) if len(sequence.split(None, 1)) > 1]
        count = f"{len(spaced):,} of {len(sequences):,} sequences"
        overlap = _are_kmers([sequences[i].split() for i in spaced])
        what = "overlapping k-mers joined to one sequence in" if overlap else "white space removed inside"
        notes.append(f"{what} {count} (first: {_line(places[spaced[0]])})")
        for i in spaced:
            first, *others = sequences[i].split()
            sequences[i] = first + "".join(other[-1] if overlap else other for other in others)
    stops = [i for i, sequence in enumerate(sequences) if sequence.endswith("*") and sequence[:-1].isalpha()]
    for i in stops:
        sequences[i] = sequences[i][:-1]
    if stops:
        count = f"{len(stops):,} of {len(sequences):,} sequences"
        notes.append(f"the stop '*' removed at the end of {count} (first: {_line(places[stops[0]])})")
    capitals = all(_letters(sequence).isupper() or _is_nucleotides(sequence) for sequence in sequences)
    for sequence, place in zip(sequences, places):
        if sequence == "*":
            raise InputError(f"{place}: column {shown(column, 40)} is a stop '*' and nothing else")
        if capitals and (gap := gap_text(sequence)):
            raise InputError(f"{place}: column {shown(column, 40)}: {gap}")
    if 2 * sum(bool(letters := _letters(each)) and not letters.isalpha() for each in sequences) > len(sequences):
        return tuple(sequences)
    if small := [i for i, each in enumerate(sequences) if each != each.upper() and not _is_nucleotides(each)]:
        count = f"{len(small):,} of {len(sequences):,} sequences"
        notes.append(f"small letters are read as capitals in {count} (first: {_line(places[small[0]])})")
    return tuple(sequence.upper() for sequence in sequences)


def _are_kmers(sequences: Sequence[Sequence[str]]) -> bool:
    """Whether the pieces of every sequence are overlapping k-mers of nucleotides, k from 3 to 9, not blocks of A."""
    sizes = {len(piece) for pieces in sequences for piece in pieces}
    if len(sizes) != 1 or not 3 <= max(sizes) <= 9 or not any(len({*pieces}) > 1 for pieces in sequences):
        return False
    if not all(_is_nucleotides(piece) for pieces in sequences for piece in pieces):
        return False
    return all(a[1:] == b[:-1] for pieces in sequences for a, b in itertools.pairwise(pieces))


def _letters(sequence: str) -> str:
    return sequence.replace("-", "").replace(".", "").replace("*", "")


def _is_nucleotides(sequence: str) -> bool:
    return NUCLEOTIDES.issuperset(_letters(sequence).upper())


def _line(place: str) -> str:
    return place.rpartition(": ")[2]


def _wrapped(sequences: Sequence[str]) -> bool:
    """White space stands inside some sequences, and yet they are letters and no text."""
    pieces = [sequence.split() for sequence in sequences]
    if not all(_letters(piece).isalpha() or piece.strip("*-.") == "" for parts in pieces for piece in parts):
        return False
    if all(_is_nucleotides(piece) for parts in pieces for piece in parts):
        return True
    if sum(len(parts) == 1 and len(parts[0]) >= LONG and parts[0].isupper() for parts in pieces) * 2 >= len(pieces):
        return True
    cut = [[len(piece) for piece in parts] for parts in pieces if len(parts) > 1]
    one_length = all(sizes[0] >= 10 and set(sizes[:-1]) == {sizes[0]} and sizes[-1] <= sizes[0] for sizes in cut)
    return one_length and all(piece.isupper() for parts in pieces if len(parts) > 1 for piece in parts)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Sequences with their targets; `sequences` is empty if a table of activations has none.

    `partners` are the second sequences of pairs, and empty where the rows are no pairs.

    `targets` is (n, k): booleans for `multilabel` and `multiclass` (one-hot), float64 for `regression`.
    `splits` is None until `assign_splits` or the file has given one of train, validation, test to every row. `lines`
    are the numbers of the file's lines on which the rows begin (of Excel and Parquet the rows' numbers); `notes` say in
    a line each what the reader took for what, changed or left out.
    """

    name: str
    task: str
    ids: tuple[str, ...]
    sequences: tuple[str, ...]
    targets: np.ndarray
    target_names: tuple[str, ...]
    groups: tuple[str, ...]
    splits: np.ndarray | None
    has_group_column: bool
    lines: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    grouping: str = ""  # how groups were made where the file has no group column; "" until `assign_splits`
    warnings: tuple[str, ...] = ()  # what a reader of results must be warned of
    partners: tuple[str, ...] = ()
    one_family: bool = False  # over half of the sequences are near copies of each other, and none are grouped
    covariate_names: tuple[str, ...] = ()
    covariates: np.ndarray | None = None  # (n, c) float64, None where none are named

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def is_text(self) -> bool:
        """Whether the sequences are words, not residues or nucleotides: some contain white space."""
        return has_words([*self.sequences, *self.partners])

    def place(self, row: int) -> str:
        """Where a row is in its file, for messages: "line 17", or "row 17" if the file has no lines."""
        if not self.lines:
            return f"row {row + 1}"
        return f"{unit(Path(self.name))} {self.lines[row]}"

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        if self.splits is None:
            raise ValueError("splits: not assigned yet; call assign_splits first")
        return np.flatnonzero(self.splits == split)

    def fingerprint(self) -> str:
        """SHA-256 over ids, sequences, targets, covariates, groups, splits: the identity of the data in a manifest."""
        digest = hashlib.sha256(repr((self.task, self.target_names)).encode())
        columns = (self.ids, self.sequences, self.groups) if self.sequences else (self.ids, self.groups)
        columns = (*columns, self.partners) if self.partners else columns
        for row in zip(*columns, strict=True):
            digest.update(repr(row).encode())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        if self.covariates is not None:
            digest.update(repr(self.covariate_names).encode())
            digest.update(np.ascontiguousarray(self.covariates).tobytes())
        digest.update(repr(None if self.splits is None else self.splits.tolist()).encode())
        return digest.hexdigest()


def unit(path: Path) -> str:
    """What the numbers of a file's rows count: "line", or "row" in a file without lines."""
    return "row" if path.suffix.lower() in SUFFIXES else "line"


def read_label_names(path: str) -> dict[str, str]:
    """The report's name for each label, from a table with the columns label and name; empty without a path.

    Raises InputError, naming the line, where there is no such file, it is damaged, its columns are others, or a label
    is empty or stands in it twice, or none does.
    """
    if not path:
        return {}
    try:
        table = read_delimited(path)
    except InputError as error:
        raise InputError(f"label_names: {error}") from None
    header = [cell.strip().casefold() for cell in table.header.cells]
    if header.count("label") != 1 or header.count("name") != 1:
        columns = shown(", ".join(table.header.cells))
        raise InputError(f"label_names: {path}: columns {columns}; label and name are needed, each once")
    if not table.rows:
        raise InputError(f"label_names: {path}: a header but no rows")
    names, lines = dict[str, str](), dict[str, int]()
    for row in table.rows:
        label, name = row.cells[header.index("label")].strip(), row.cells[header.index("name")].strip()
        if not label:
            raise InputError(f"label_names: {path}: line {row.line}: the label is empty")
        if label in names:
            raise InputError(
                f"label_names: {path}: line {row.line}: label {shown(label)} is already in line {lines[label]}"
            )
        names[label], lines[label] = name or label, row.line
    return names


def label_name_notes(names: dict[str, str], data: Dataset, path: str) -> list[str]:
    """A line for labels of the data without a name, and one for names of other labels.

    Raises InputError where the names are of other labels altogether.
    """
    unnamed = [label for label in data.target_names if label not in names]
    unknown = sorted(set(names) - set(data.target_names))
    if names and len(unnamed) == len(data.target_names):
        raise InputError(
            f"label_names: {path}: none of its labels ({shown(unknown[0], 60)}, …) is in {data.name} "
            f"({shown(unnamed[0], 60)}, …); give the file of these labels, or --label-names '' for none"
        )
    notes = [(unnamed, "labels have no name"), (unknown, "labels are not in the data")]
    return [
        f"{path}: {len(labels)} {what} ({', '.join(shown(label, 40) for label in labels[:3])})"
        for labels, what in notes
        if names and labels
    ]
