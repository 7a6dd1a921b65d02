"""Labelled sequences from a CSV or TSV file (gzip allowed): one row a sequence."""

import csv
import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np

from covjax.data.text import read_text
from covjax.errors import InputError

csv.field_size_limit(2**31 - 1)  # the module's own limit of 131,072 letters is shorter than many a gene
TASKS = ("multilabel", "multiclass", "regression")
ANSWERS = ("label", "labels", "targets")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Sequences with their targets.

    `targets` is (n, k): booleans for `multilabel` and `multiclass` (one-hot), float64 for `regression`.
    `splits` is None until `assign_splits` or the file has given one of train, validation, test to every row.
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

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def is_text(self) -> bool:
        """Words, not residues or nucleotides: white space stands in some sequence."""
        return has_words(self.sequences)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        if self.splits is None:
            raise ValueError("splits: not assigned yet; call assign_splits first")
        return np.flatnonzero(self.splits == split)

    def fingerprint(self) -> str:
        """SHA-256 over every id, sequence, target, group and split: the identity of the data in a manifest."""
        digest = hashlib.sha256(repr((self.task, self.target_names)).encode())
        for row in zip(self.ids, self.sequences, self.groups):
            digest.update(repr(row).encode())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        digest.update(repr(None if self.splits is None else self.splits.tolist()).encode())
        return digest.hexdigest()


def has_words(sequences: tuple[str, ...]) -> bool:
    """White space inside some sequence: the table holds text."""
    return any(len(sequence.split(None, 1)) > 1 for sequence in sequences)


def read_table(path: str | Path, task: str = "auto") -> Dataset:
    """Read a table with the columns sequence, one of label, labels, targets, and optionally id, split and group.

    `labels` holds any number of names separated by `;` (multi-label, may be empty); `label` one name (multiclass) or
    one number (regression); `targets` several numbers separated by `;`, as many in every row (regression with outputs
    target1, target2, …). `task="auto"` takes `labels` as multilabel, `targets` as regression; a `label` column whose
    values are all numbers, at least one of them with a decimal point or exponent, as regression; any other `label`
    column as multiclass.

    Residues and nucleotides are upper-cased, so that the same sequence in two cases counts as one; text (white space
    inside some sequence of the table) keeps its letters' case, which is the encoder's to fold. Which letters are
    allowed is the encoder's to say too.

    Raises InputError, naming file, column and row (the header is row 1), for a missing or empty file, missing or
    ambiguous columns, empty sequences, duplicate ids, non-finite numbers, rows with more or fewer targets than the
    first, and unknown splits.
    """
    path = Path(path)
    if task not in ("auto", *TASKS):
        raise InputError(f"task: {task!r} is not one of auto, {', '.join(TASKS)}")
    header, rows = _read_rows(path)
    label_column = _label_column(path, header, task)
    task = _resolve_task(task, label_column, [row[label_column] for row in rows])
    ids = tuple(row.get("id") or f"row{number}" for number, row in enumerate(rows, start=2))
    first_seen: dict[str, int] = {}
    for number, (name, row) in enumerate(zip(ids, rows), start=2):
        if not row["sequence"].strip():
            raise InputError(f"{path}: row {number}: column 'sequence' is empty")
        if name in first_seen:
            raise InputError(f"{path}: row {number}: id {name!r} stands already in row {first_seen[name]}")
        first_seen[name] = number
    targets, names = _targets(path, task, label_column, [row[label_column] for row in rows])
    sequences = tuple(row["sequence"].strip() for row in rows)
    if not has_words(sequences):
        sequences = tuple(sequence.upper() for sequence in sequences)
    return Dataset(
        name=path.name,
        task=task,
        ids=ids,
        sequences=sequences,
        targets=targets,
        target_names=names,
        groups=_groups(path, rows) if "group" in header else sequences,
        splits=_splits(path, rows) if "split" in header else None,
        has_group_column="group" in header,
    )


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffixes = [s.lower() for s in path.suffixes]
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if ".tsv" in suffixes else ",")
    header = list(reader.fieldnames or [])
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise InputError(f"{path}: column {repeated[0]!r} stands {header.count(repeated[0])} times in the header")
    if "sequence" not in header:
        raise InputError(f"{path}: missing column 'sequence'; found {', '.join(header)}")
    rows = list(reader)
    if not rows:
        raise InputError(f"{path}: a header but no rows")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number}: not {len(header)} fields as in the header")
    return header, rows


def _label_column(path: Path, header: list[str], task: str) -> str:
    present = [name for name in ANSWERS if name in header]
    if not present:
        raise InputError(f"{path}: missing column 'label' or 'labels' or 'targets'; found {', '.join(header)}")
    if len(present) > 1:
        raise InputError(f"{path}: columns {present[0]!r} and {present[1]!r} both stand in the header; keep one")
    allowed = {"multilabel": ("labels",), "multiclass": ("label",), "regression": ("label", "targets"), "auto": ANSWERS}
    if present[0] not in allowed[task]:
        wanted = " or ".join(repr(name) for name in allowed[task])
        raise InputError(f"{path}: task {task} needs column {wanted}, found {present[0]!r}")
    return present[0]


def _resolve_task(task: str, label_column: str, values: list[str]) -> str:
    if task != "auto":
        return task
    if label_column != "label":
        return "multilabel" if label_column == "labels" else "regression"
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return "multiclass"
    return "multiclass" if all(value.strip().lstrip("+-").isdigit() for value in values) and numbers else "regression"


def _targets(path: Path, task: str, column: str, values: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    if task == "regression":
        return _numbers(path, column, values)
    sets = [{part.strip() for part in value.split(";")} - {""} for value in values]
    if task == "multiclass":
        sets = [{value.strip()} for value in values]
        if missing := [i for i, value in enumerate(values) if not value.strip()]:
            raise InputError(f"{path}: row {missing[0] + 2}: column 'label' is empty")
    names = tuple(sorted(set().union(*sets)))
    if len(names) < (1 if task == "multilabel" else 2):
        raise InputError(f"{path}: {len(names)} different label(s) {list(names)}; nothing to predict")
    index = {name: j for j, name in enumerate(names)}
    table = np.zeros((len(values), len(names)), bool)
    for i, members in enumerate(sets):
        table[i, [index[name] for name in members]] = True
    return table, names


def _numbers(path: Path, column: str, values: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    several = column == "targets"
    cells = [value.split(";") if several else [value] for value in values]
    table = np.empty((len(cells), len(cells[0])))
    for number, parts in enumerate(cells, start=2):
        if len(parts) != len(cells[0]):
            raise InputError(
                f"{path}: row {number}: {len(parts)} targets in {values[number - 2]!r}, but {len(cells[0])} in row 2"
            )
        for j, part in enumerate(parts):
            what = f"target {j + 1}" if several else "label"
            try:
                table[number - 2, j] = float(part)
            except ValueError:
                raise InputError(f"{path}: row {number}: {what} {part!r} is not a number (task regression)") from None
            if not np.isfinite(table[number - 2, j]):
                raise InputError(f"{path}: row {number}: {what} {part!r} is not finite")
    return table, tuple(f"target{j + 1}" for j in range(table.shape[1])) if several else ("label",)


def _groups(path: Path, rows: list[dict[str, str]]) -> tuple[str, ...]:
    for number, row in enumerate(rows, start=2):
        if not row["group"].strip():
            raise InputError(f"{path}: row {number}: column 'group' is empty")
    return tuple(row["group"].strip() for row in rows)


def _splits(path: Path, rows: list[dict[str, str]]) -> np.ndarray:
    # "valid" and "val" are what many published tables write.
    known = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
    splits = []
    for number, row in enumerate(rows, start=2):
        value = row["split"].strip().lower()
        if value not in known:
            raise InputError(f"{path}: row {number}: split {row['split']!r} is not one of train, validation, test")
        splits.append(known[value])
    return np.array(splits)
