"""Labelled sequences from a table, an Excel workbook, a Parquet file, or FASTA: one sequence per row."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from covjax.data.covariates import covariate_columns, read_covariates
from covjax.data.dataset import ANSWERS, Dataset, describe_columns, has_words, match_columns, tidy_sequences, unit
from covjax.data.spreadsheets import SUFFIXES, read_spreadsheet
from covjax.data.targets import TASKS, Answers, is_missing, read_targets, same_numbers
from covjax.data.text import Row, Table, filled_rows, plain_suffix, read_delimited, stream_fasta
from covjax.errors import InputError, shown
from covjax.jobs.disk import cell_text, refuse_address

FASTA = (".fasta", ".fa", ".faa", ".fna", ".ffn")
# As published tables spell them.
SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **{"test": "test", "testing": "test"},
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "multilabel": ("labels",),
    "multiclass": ("label",),
    "regression": ("label", "targets"),
}
SHORT = 8  # letters: among sequences as short as these "NA" may be one of them


def read_table(
    path: str | Path,
    task: str = "auto",
    *,
    sequence_column: str = "",
    sequence_b_column: str = "",
    label_column: str = "",
    id_column: str = "",
    split_column: str = "",
    group_column: str = "",
    missing: str = "refuse",
    label_regex: str = "",
    needs_sequence: bool = True,
    covariates: Sequence[str] = (),
) -> Dataset:
    """Read labelled sequences: columns sequence, one of label, labels or targets, and optionally id, split, group.

    Formats: delimited text whatever its suffix (comma, tab or semicolon, gzip or not), `.xlsx` (extra `excel`),
    `.parquet`, and FASTA, where the first group of `label_regex`, searched for in the header, is the label and the
    header's first word the id. The case of column names is ignored. Common other names (`covjax.data.dataset.SYNONYMS`)
    are understood; `sequence_column` and so on set any name. A column `set`, `fold` or `partition` is the split only if
    it holds names of splits.

    `labels` holds any number of names separated by `;` (multi-label, may be empty); `label` one name (multiclass) or
    one number (regression); `targets` several numbers separated by `;`, the same count in every row (regression with
    outputs target1, target2, …). `task="auto"` reads `labels` as multilabel and `targets` as regression. A `label`
    column counts as numbers if at least 80 % of its cells (missing ones apart) are numbers, or if more than half are,
    with more than ten different values. Numbers are regression, except that whole numbers without a decimal point are
    classes if they have at most 10 different values, or at most 20 with five rows each on average, and that 0 and 1 are
    classes however they are written. Every other `label` column is multiclass, unless most of more than ten different
    cells are numbers in another spelling ("−1.5", ">10", "3±1", dates): these are refused.

    A column `sequence_b` makes every row a pair (`Dataset.partners`). `covariates` are columns of numbers that go with
    the rows (`Dataset.covariates`).

    With `needs_sequence=False` (for given activations) a table without that column is a dataset without sequences; its
    groups are then the ids, unless there is a group column.

    Cells without a value (`covjax.data.targets.MISSING`: empty, NA, nan, None, - and so on) are never a class, a number
    or a sequence. They are refused; with `missing="drop"` their rows are left out and counted, and so are rows with
    text in a column of numbers. An empty `labels` cell is a row without labels. Rows in which every cell is empty, as
    spreadsheets leave at the end, are skipped and counted.

    Residues and nucleotides are upper-cased, so that the same sequence in two cases counts as one; white space of
    wrapped lines and a stop `*` at the end are removed (`covjax.data.dataset.tidy_sequences`). Text (white space inside
    some sequence of the table) keeps its case. The encoder decides whether case matters and which letters are allowed.

    Everything that was interpreted, changed or left out is in the result's `notes`. Raises InputError, naming file,
    column and line, for what cannot be read (`read_delimited`, `read_spreadsheet`), missing or ambiguous columns,
    missing values, duplicate ids, numbers that are infinite or could be read in two ways, rows with more or fewer
    targets than the first, labels separated by commas, gaps in sequences, unknown splits, and headers that
    `label_regex` does not match.
    """
    refuse_address("data", path)
    path = Path(path)
    if task not in ("auto", *TASKS):
        raise InputError(f"task: {shown(task)} is not one of auto, {', '.join(TASKS)}")
    if missing not in ("refuse", "drop"):
        raise InputError(f"missing: {shown(missing)} is not one of refuse, drop")
    names = {"sequence": sequence_column, "label": label_column, "id": id_column}
    names |= {"split": split_column, "group": group_column, "sequence_b": sequence_b_column}
    notes: list[str] = []
    first, others = ("sequence", "label"), ("sequence_b", "id", "split", "group")
    roles = (first, others) if needs_sequence else (first[1:], (*first[:1], *others))

    def match(header: Row) -> dict[str, int]:
        return match_columns(path, header, names, *roles)

    def used(header: Row) -> list[int]:
        columns = match(header)
        return [*columns.values(), *covariate_columns(path, header, covariates, columns)]

    table = _read_rows(path, names, label_regex, notes, used)
    columns = match(table.header)
    kind = next(role for role in columns if role in ANSWERS)
    if not table.rows:
        raise InputError(f"{path}: a header but no rows")
    titles = {role: table.header.cells[index].strip() for role, index in columns.items()}
    rows = table.rows
    if "sequence" in columns:
        for role in ("sequence", "sequence_b"):
            if role in columns:
                rows = _with_sequence(path, rows, titles[role], columns[role], missing, notes)

    def cells(role: str) -> list[str]:
        return [row.cells[columns[role]] for row in rows]

    places = [f"{path}: {unit(path)} {row.line}" for row in rows]
    if label_column or label_regex:
        kind = _named_kind(kind, task, cells(kind))
        columns = {kind if role in ANSWERS else role: i for role, i in columns.items()}
    elif task != "auto" and kind not in ALLOWED[task]:
        wanted = " or ".join(repr(name) for name in ALLOWED[task])
        raise InputError(
            f"{path}: task {task} needs column {wanted}, found {shown(titles[kind], 40)}; "
            "name the column by --label-column to read it so"
        )
    if "split" in columns and not split_column and (reason := _no_split(titles["split"], cells("split"))):
        notes.append(reason)
        del columns["split"]
    guessed = "id" in columns and titles["id"].casefold() != "id" and not id_column
    if guessed and (repeated := _repeated(cells("id"))):
        notes.append(f"column {shown(titles['id'], 40)} is not used as the id: {shown(repeated, 40)} occurs twice")
        del columns["id"]
    if described := describe_columns(table.header, columns):
        notes.insert(0, described)
    answers = Answers(
        str(path), table.header.cells[columns[kind]].strip(), kind, cells(kind), places, table.delimiter == ";"
    )
    targets = read_targets(answers, task, missing, notes)
    rows, places = [rows[i] for i in targets.rows], [places[i] for i in targets.rows]
    ids = _ids(rows, cells("id") if "id" in columns else None, places, not label_regex)
    sequences: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    if "sequence_b" in columns:  # both columns are text, or none
        both, either = [*cells("sequence"), *cells("sequence_b")], f"{titles['sequence']} or {titles['sequence_b']}"
        tidy = tidy_sequences(both, places * 2, either, notes)
        sequences, partners = tidy[: len(rows)], tidy[len(rows) :]
    elif "sequence" in columns:
        sequences = tidy_sequences(cells("sequence"), places, titles["sequence"], notes)
    numbers = covariate_columns(path, table.header, covariates, columns)
    beside = None
    if numbers:
        cells_of = [[row.cells[index] for row in rows] for index in numbers]
        beside = read_covariates(covariates, cells_of, places, table.delimiter == ";", notes)
    groups = (
        _groups(cells("group"), places, titles["group"], notes)
        if "group" in columns
        else ids
        if partners
        else sequences or ids
    )
    return Dataset(
        name=path.name,
        task=targets.task,
        ids=ids,
        sequences=sequences,
        partners=partners,
        targets=targets.values,
        target_names=targets.names,
        groups=groups,
        splits=_splits(cells("split"), places) if "split" in columns else None,
        has_group_column="group" in columns,
        lines=tuple(row.line for row in rows),
        notes=tuple(notes),
        covariate_names=tuple(table.header.cells[index].strip() for index in numbers),
        covariates=beside,
    )


def _read_rows(
    path: Path,
    names: dict[str, str],
    label_regex: str,
    notes: list[str],
    used: Callable[[Row], Collection[int]],
) -> Table:
    if not os.path.isfile(path):  # of a path too long Path.is_file raises
        raise InputError(f"{path if len(str(path)) <= 300 else shown(str(path), 200)}: no such file")
    suffix = plain_suffix(path)
    if suffix in FASTA:
        if given := [role for role, name in names.items() if name]:
            raise InputError(f"--{given[0]}-column: {path} is FASTA, which has no columns; the label is --label-regex")
        return _read_fasta(path, label_regex)
    if label_regex:
        raise InputError(f"label_regex: {shown(label_regex)} is for FASTA, and {path} is named {suffix or 'otherwise'}")
    if path.suffix.lower() in SUFFIXES:
        return read_spreadsheet(path, used, notes)
    table = read_delimited(path)
    return table._replace(
        rows=[Row(row.line, tuple(map(cell_text, row.cells))) for row in filled_rows(table.rows, notes)]
    )


def _read_fasta(path: Path, label_regex: str) -> Table:
    records = list(stream_fasta(path))
    if not records:
        raise InputError(f"{path}: no sequence in it")
    if not label_regex:
        raise InputError(
            f"{path}: FASTA needs --label-regex, whose first group is the label in the header, e.g. "
            rf"'class=(\S+)'; the first header is {shown(records[0][1])}"
        )
    try:
        pattern = re.compile(label_regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"label_regex: {shown(label_regex)} is not a regular expression ({error})") from None
    if pattern.groups < 1:
        raise InputError(f"label_regex: {shown(label_regex)} has no group (…), which would be the label")
    rows, unmatched = [], []
    for line, header, sequence in records:
        match = pattern.search(header)
        if match is None or match[1] is None:
            unmatched.append((line, header))
            continue
        rows.append(Row(line, ((header.split() or [""])[0], sequence, match[1])))
    if unmatched:
        line, header = unmatched[0]
        raise InputError(
            f"{path}: label_regex: {shown(label_regex)} matches {len(rows):,} of {len(records):,} headers; "
            f"line {line} is {shown(header)}"
        )
    return Table(Row(0, ("id", "sequence", "label")), rows, "")


def _with_sequence(path: Path, rows: list[Row], column: str, index: int, missing: str, notes: list[str]) -> list[Row]:
    """The rows that have a sequence; the others are refused, or left out where `missing` is "drop"."""
    cells = [row.cells[index].strip() for row in rows]
    letters = not has_words(cells) and sorted(map(len, cells))[len(cells) // 2] > SHORT
    bad = [i for i, cell in enumerate(cells) if not cell or (letters and is_missing(cell))]
    if not bad:
        return rows
    line, cell = rows[bad[0]].line, cells[bad[0]]
    what = f"{unit(path)} {line}: column {shown(column, 40)} is {shown(cell) if cell else 'empty'}"
    if missing != "drop":
        more = f" ({len(bad):,} of {len(rows):,} rows are so)" if len(bad) > 1 else ""
        raise InputError(f"{path}: {what}{more}; --missing drop leaves out the rows without a sequence")
    if len(bad) == len(rows):
        raise InputError(f"{path}: {what}; no row has a sequence")
    notes.append(f"{len(bad):,} of {len(rows):,} rows left out, without a sequence (first: {unit(path)} {line})")
    outside = set(bad)
    return [row for i, row in enumerate(rows) if i not in outside]


def _named_kind(kind: str, task: str, cells: Sequence[str]) -> str:
    """What a column that the user named holds, by the task that the user named."""
    if task == "multilabel":
        return "labels"
    if task == "multiclass":
        return "label"
    if task == "regression":
        return "targets" if any(";" in cell for cell in cells) else "label"
    return kind


def _repeated(cells: Sequence[str]) -> str:
    """The first cell that occurs twice, of those that are not empty."""
    seen: set[str] = set()
    for cell in map(str.strip, cells):
        if cell and cell in seen:
            return cell
        seen.add(cell)
    return ""


def _ids(rows: Sequence[Row], cells: Sequence[str] | None, places: Sequence[str], has_columns: bool) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        name = (cells[i].strip() if cells else "") or f"row{row.line}"
        if name in first:
            remedy = ", or name another column by --id-column" if cells and has_columns else ""
            raise InputError(
                f"{places[i]}: id {shown(name)} is already in {places[first[name]].rpartition(': ')[2]}; make ids "
                f"different{remedy}"
            )
        first[name] = i
    return tuple(first)


def _groups(cells: Sequence[str], places: Sequence[str], column: str, notes: list[str]) -> tuple[str, ...]:
    for cell, place in zip(cells, places):
        if is_missing(cell):
            what = shown(cell.strip()) if cell.strip() else "empty"
            raise InputError(f"{place}: column {shown(column, 40)} is {what}; give such a row its own group")
    names = [cell.strip() for cell in cells]
    if same := same_numbers(names):  # of a joined table
        notes.append(
            f"groups {min(same)} and {same[min(same)]} of column {shown(column, 40)} are one, as are others so"
        )
    return tuple(same.get(name, name) for name in names)


def _no_split(column: str, cells: Sequence[str]) -> str:
    """Why a column whose name alone suggests a split is none; empty where it is one."""
    if column.casefold() == "split" or any(cell.strip().lower() in SPLIT_NAMES for cell in cells):
        return ""
    return (
        f"column {shown(column, 40)} is not used as the split: it holds {shown(cells[0].strip(), 40)}, none of "
        "train, validation, test"
    )


def _splits(cells: Sequence[str], places: Sequence[str]) -> np.ndarray:
    for cell, place in zip(cells, places):
        if cell.strip().lower() not in SPLIT_NAMES:
            hint = "; fold numbers are not a split, rename the column" if cell.strip().isdecimal() else ""
            raise InputError(f"{place}: split {shown(cell)} is not one of train, validation, test{hint}")
    return np.array([SPLIT_NAMES[cell.strip().lower()] for cell in cells])
