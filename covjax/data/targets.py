"""Answers in a table: numbers, classes and sets of labels."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covjax.data.dataset import visible_text
from covjax.data.spreadsheets import ERRORS
from covjax.errors import InputError, shown
from covjax.jobs.disk import new_text, text_cell

PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(
    r"[+-]?[1-9][0-9]{0,2}((,[0-9]{3})+(\.[0-9]*)?|(\.[0-9]{3})+,[0-9]+|([ '’\u00a0\u202f][0-9]{3})+([.,][0-9]*)?)"
)
INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
# As tables spell a value that is not there. "Na" is not among them: it is sodium.
MISSING = {
    *("", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "None", "none", "NONE"),
    *("null", "Null", "NULL", "-", "?", "--", ".", "n.a.", "N.A.", "#NA", "#N/A N/A", "-nan", "-NaN"),
    *ERRORS,
}


def is_missing(cell: str) -> bool:
    """Whether a cell's value is missing: it is empty, or one of the spellings in `MISSING`."""
    return cell.strip() in MISSING


def read_numbers(cells: Sequence[str], places: Sequence[str], semicolons: bool) -> tuple[list[float | None], str]:
    """Read a column's cells as numbers, infinite ones too, None for each that is none, and say how commas were taken.

    A comma is the decimal mark (the second value says so, else it is empty) in a file whose cells are separated by
    semicolons (`semicolons`), and elsewhere where in some cell it can be nothing else ("0,25", "45,3").

    Raises InputError, with the place ("t.csv: line 5") of the cell, where a comma or point may separate thousands,
    provided that more than half of the cells look like numbers.
    """
    cells = [cell.strip() for cell in cells]
    plain = {i for i, cell in enumerate(cells) if PLAIN.fullmatch(cell)}
    commas = {i for i, cell in enumerate(cells) if COMMA.fullmatch(cell)}
    thousands = {i for i, cell in enumerate(cells) if THOUSANDS.fullmatch(cell)}
    decimal = bool(commas) and (semicolons or bool(commas - thousands))
    if 2 * len(plain | commas | thousands) > len(cells):
        points = {i for i in plain if "." in cells[i]} if decimal else set()
        if unclear := (thousands - commas if decimal else thousands) | points:
            first = min(unclear)
            raise InputError(
                f"{places[first]}: {shown(cells[first], 40)} can be read in two ways, with a mark of thousands or of "
                "decimals; write the column without marks of thousands and with decimal points"
            )
    numbers: list[float | None] = []
    for i, cell in enumerate(cells):
        if i in plain or (decimal and i in commas) or INFINITE.fullmatch(cell):
            numbers.append(float(cell.replace(",", ".")))
        else:
            numbers.append(None)
    if not decimal:
        return numbers, ""
    example = cells[min(commas)]
    return numbers, f"decimal commas: {shown(example, 40)} is read as {example.replace(',', '.')}"


TASKS = ("multilabel", "multiclass", "regression")
FEW, SOME, ROWS = 10, 20, 5  # whole numbers are classes: at most FEW values, or SOME with ROWS rows each on average
# Numbers as papers and programs write them that are not read as numbers.
_DRESSED = re.compile(
    r"""[=<>≤≥~≈±$€£¥+−–—("'\s-]*(\d[\d_]*[.,·]?\d*|[.,]\d+)([DdEe][+−-]?\d+)?\s*((±|\+/-)\s*[\d.,]+)?[)"'\s-]*"""
    r"|\d{4}([-/.])\d{1,2}\5\d{1,2}([T ].*)?|\d{1,2}([-/.])\d{1,2}\7\d{4}( .*)?|0[xX][0-9A-Fa-f]+"
)
_LIST = re.compile(r"\[.*['\",].*\]|\{.*['\",].*\}")  # as a program prints a list of labels
AMOUNT = re.compile(PLAIN.pattern.replace(r"\.", "[.,]") + r"\s*(%|‰|[A-Za-zµμ°][\w°/^*·-]*)")


class Answers(NamedTuple):
    """Cells of the answer column: its name, what it holds (label, labels or targets), and how a cell is shown."""

    path: str
    column: str
    kind: str
    cells: Sequence[str]
    places: Sequence[str]  # "t.csv: line 5"
    semicolons: bool  # separate the file's cells

    def refuse(self, text: str) -> InputError:
        """An error that names the file and the column."""
        return InputError(f"{self.path}: column {shown(self.column, 40)}: {text}")

    def example(self, row: int) -> str:
        """One cell and where it is: "line 17 is 'NA'"."""
        cell = self.cells[row].strip()
        return f"{self.places[row].rpartition(': ')[2]} is {shown(cell, 60) if cell else 'empty'}"


class Targets(NamedTuple):
    """Targets (n, k) of the rows that have some, their names, the task, and the row numbers."""

    task: str
    values: np.ndarray
    names: tuple[str, ...]
    rows: list[int]


def read_targets(answers: Answers, task: str, missing: str, notes: list[str]) -> Targets:
    """Decide the task where it is "auto", and make the targets; `notes` gets a line for whatever is not plain.

    See `covjax.data.table.read_table` for the rules and the errors.
    """
    if answers.kind == "labels":
        return _multilabel(answers, missing, notes)
    if answers.kind == "targets":
        return _several(answers, missing, notes)
    if task == "multiclass":
        return _multiclass(answers, missing, notes)
    numbers, commas = read_numbers(answers.cells, answers.places, answers.semicolons)
    if task == "auto" and _task(answers, numbers, notes) == "multiclass":
        return _multiclass(answers, missing, notes)
    rows = _complete(answers, [number is not None for number in numbers], missing, notes, "numbers")
    if commas:
        notes.append(commas)
    values = np.array([[numbers[i]] for i in rows], np.float64)
    if len(infinite := np.flatnonzero(~np.isfinite(values[:, 0]))):
        raise answers.refuse(f"{answers.example(rows[infinite[0]])}, which is not finite")
    return Targets("regression", values, ("label",), rows)


def _task(answers: Answers, numbers: list[float | None], notes: list[str]) -> str:
    present = [i for i, cell in enumerate(answers.cells) if not is_missing(cell)]
    values = [number for i in present if (number := numbers[i]) is not None]
    different = set(values)
    _refuse_dressed(answers, present, numbers)
    _refuse_units(answers, present, numbers)
    if not values or (len(values) < 0.8 * len(present) and (2 * len(values) <= len(present) or len(different) <= FEW)):
        return "multiclass"
    name = shown(answers.column, 40)
    whole = all(answers.cells[i].strip().lstrip("+-").isdecimal() for i in present if numbers[i] is not None)
    if different <= {0.0, 1.0}:
        if not whole:
            notes.append(f"column {name}: 0.0 and 1.0 are read as classes; --task regression reads them as amounts")
        return "multiclass"
    if not whole:
        if len(different) <= FEW and len(values) >= ROWS * len(different):
            notes.append(
                f"column {name}: {len(different)} different numbers with a decimal point are read as amounts "
                "(regression); --task multiclass reads them as classes"
            )
        return "regression"
    if len(different) <= FEW or (len(different) <= SOME and len(values) >= ROWS * len(different)):
        if len(different) > 2:
            notes.append(
                f"column {name}: {len(different)} different whole numbers are read as classes; --task regression "
                "reads them as amounts"
            )
        return "multiclass"
    notes.append(
        f"column {name}: whole numbers with {len(different)} different values are read as amounts (regression); "
        "--task multiclass reads them as classes"
    )
    return "regression"


def _refuse_units(answers: Answers, present: list[int], numbers: list[float | None]) -> None:
    """Amounts such as "37 °C" or "45%" are no classes."""
    words = [i for i in present if numbers[i] is None]
    units = Counter(match[3] for i in words if (match := AMOUNT.fullmatch(answers.cells[i].strip())))
    unit, count = units.most_common(1)[0] if units else ("", 0)
    if 2 * count > len(present) and len({answers.cells[i] for i in present}) > FEW:
        example = answers.example(next(i for i in words if answers.cells[i].strip().endswith(unit)))
        raise answers.refuse(
            f"{count:,} of {len(present):,} cells are numbers with the unit {shown(unit, 20)} ({example}); "
            "write the numbers alone, or take --task multiclass"
        )


def _refuse_dressed(answers: Answers, present: list[int], numbers: list[float | None]) -> None:
    """Numbers in another spelling ("−1.5", ">10", "3.1±0.2", a date) are no classes either."""
    odd = [i for i in present if numbers[i] is None and _DRESSED.fullmatch(answers.cells[i].strip())]
    if 2 * len(odd) > len(present) and len({answers.cells[i] for i in present}) > FEW:
        raise answers.refuse(
            f"{len(odd):,} of {len(present):,} cells look like numbers or dates but cannot be read as numbers "
            f"({answers.example(odd[0])}); write plain numbers such as -1.5, or take --task multiclass"
        )


def _complete(answers: Answers, good: Sequence[bool], missing: str, notes: list[str], what: str) -> list[int]:
    """Rows that have an answer; the others are left out, or refused unless `missing` is "drop"."""
    rows = [i for i, each in enumerate(good) if each]
    bad = [i for i, each in enumerate(good) if not each]
    if not bad:
        return rows
    count, example = f"{len(rows):,} of {len(good):,} are {what}", answers.example(bad[0])
    if missing != "drop":
        remedy = "--missing drop leaves out the rows without"
        if not all(is_missing(answers.cells[i]) for i in bad):
            remedy += ", --task multiclass takes the cells for classes" if answers.kind == "label" else ""
        elif what == "labels" and answers.kind == "label" and any(";" in cell for cell in answers.cells):
            remedy += ", --task multilabel with --label-column separates labels at ';'"
        elif what == "labels" and answers.cells[bad[0]].strip():
            remedy += "; a label that is really called so needs another name"
        raise answers.refuse(f"{count}; {example}; {remedy}")
    spellings = Counter(answers.cells[i].strip() for i in bad).most_common(3)
    shown_spellings = ", ".join(f"{shown(cell, 30) if cell else 'empty'} {n:,}×" for cell, n in spellings)
    notes.append(
        f"{len(bad):,} of {len(good):,} rows left out, without {what} in column {shown(answers.column, 40)}: "
        f"{shown_spellings} (first: {example.partition(' is ')[0]})"
    )
    if not rows:
        raise answers.refuse(f"{count}; no row is left")
    return rows


def _multiclass(answers: Answers, missing: str, notes: list[str]) -> Targets:
    cells = [cell.strip() for cell in answers.cells]
    # "+" and "-" are two classes; "-" beside others is an empty cell.
    signs = {cell for cell in cells if cell} == {"+", "-"}
    good = [not is_missing(cell) or (signs and cell == "-") for cell in cells]
    rows = _complete(answers, good, missing, notes, "labels")
    labels = [cells[i] for i in rows]
    if all(PLAIN.fullmatch(label) and float(label) in (0, 1) for label in labels):  # 1, 1.0 and +1 are one class
        labels = [str(int(float(label))) for label in labels]
    if several := [i for i, cell in zip(rows, labels) if ";" in cell] or _joined(labels, rows):
        notes.append(
            f"column {shown(answers.column, 40)}: {answers.example(several[0])}, read as one class; several labels "
            "a row belong in a column 'labels', or take --task multilabel with --label-column"
        )
    return _table(answers, "multiclass", [{label} for label in labels], rows, 2, notes)


def _multilabel(answers: Answers, missing: str, notes: list[str]) -> Targets:
    filled = [i for i, cell in enumerate(answers.cells) if cell.strip()]
    if not any(";" in answers.cells[i] for i in filled):
        for mark in ",|":
            marked = [i for i in filled if mark in answers.cells[i]]
            joined = _joined([answers.cells[i].strip() for i in filled], filled, mark)
            if 2 * len(marked) > len(filled) or joined:
                raise answers.refuse(
                    f"{len(marked):,} of {len(filled):,} cells hold {mark!r} and none ';' "
                    f"({answers.example((joined or marked)[0])}); separate labels by ';', or name the column 'label' "
                    "where each cell is one label"
                )
    if lists := [i for i in filled if _LIST.fullmatch(answers.cells[i].strip())]:
        raise answers.refuse(f"{answers.example(lists[0])}; write the labels of a row without brackets and quotes: a;b")
    parts = [[part.strip() for part in cell.split(";") if part.strip()] for cell in answers.cells]
    rows = _complete(answers, [not any(map(is_missing, each)) for each in parts], missing, notes, "labels")
    return _table(answers, "multilabel", [set(parts[i]) for i in rows], rows, 1, notes)


def _joined(cells: list[str], rows: list[int], marks: str = ",|") -> list[int]:
    """Rows whose cell is several other cells of the column joined by a mark: several labels, not one."""
    whole = set(cells)
    return [
        row
        for row, cell in zip(rows, cells)
        for mark in marks
        if mark in cell and all(part.strip() in whole for part in cell.split(mark))
    ]


def same_numbers(cells: Sequence[str]) -> dict[str, str]:
    """Cells such as "1.0" that stand beside "1", as joined tables write one class, with the whole number."""
    whole = set(cells)
    parts = {cell: cell.partition(".") for cell in whole if PLAIN.fullmatch(cell)}
    return {cell: first for cell, (first, _, last) in parts.items() if first in whole and last and not last.strip("0")}


def _table(answers: Answers, task: str, sets: list[set[str]], rows: list[int], least: int, notes: list[str]) -> Targets:
    if same := same_numbers(sorted(set().union(*sets))):
        sets = [{same.get(name, name) for name in members} for members in sets]
        cell = min(same)
        notes.append(f"labels {cell} and {same[cell]} are one, as are others that differ by a decimal zero only")
    names = tuple(sorted(set().union(*sets)))
    if len(names) < least:
        raise answers.refuse(f"{len(names)} different label(s) {shown(list(names), 40)}; nothing to predict")
    index = {name: j for j, name in enumerate(names)}
    plain = {_seen(name): name for name in names}
    if alike := [name for name in names if plain[_seen(name)] != name]:
        other = plain[_seen(alike[0])]
        number = "leading zeros" if PLAIN.fullmatch(other) else "blanks or invisible characters"
        how = "case" if alike[0].casefold() == other.casefold() else number
        notes.append(f"labels {shown(alike[0], 40)} and {shown(other, 40)} differ by {how} only and count as two")
    values = np.zeros((len(rows), len(names)), bool)
    for i, members in enumerate(sets):
        values[i, [index[name] for name in members]] = True
    return Targets(task, values, names, rows)


def _seen(name: str) -> str:
    """The label as a reader sees it: without case, invisible characters, several blanks, and zeros before a number."""
    name = visible_text(name).casefold()
    return name.lstrip("0") or "0" if name.isdecimal() else name


def _several(answers: Answers, missing: str, notes: list[str]) -> Targets:
    cells = [cell.split(";") for cell in answers.cells]
    flat = [part for parts in cells for part in parts]
    places = [place for place, parts in zip(answers.places, cells) for _ in parts]
    if all(len(parts) == 1 for parts in cells) and 2 * sum("," in part for part in flat) > len(flat):
        example = answers.example(next(i for i, part in enumerate(flat) if "," in part))
        raise answers.refuse(f"{example}; separate targets by ';' and write decimal points")
    numbers, commas = read_numbers(flat, places, answers.semicolons)
    ends = np.cumsum([len(parts) for parts in cells])
    values = [numbers[end - len(parts) : end] for parts, end in zip(cells, ends)]
    whole = [i for i, cell in enumerate(answers.cells) if not is_missing(cell)]  # "NA" stands for all of a row's
    width = len(cells[whole[0]]) if whole else 1
    for i in whole:
        if len(cells[i]) != width:
            first = answers.places[whole[0]].rpartition(": ")[2]
            raise answers.refuse(f"{answers.example(i)}: {len(cells[i])} targets, but {width} in {first}")
    good = [len(row) == width and None not in row for row in values]
    rows = _complete(answers, good, missing, notes, "numbers")
    if commas:
        notes.append(commas)
    table = np.array([values[i] for i in rows], np.float64)
    if len(infinite := np.flatnonzero(~np.isfinite(table).all(axis=1))):
        raise answers.refuse(f"{answers.example(rows[infinite[0]])}, which is not finite")
    return Targets("regression", table, tuple(f"target{j + 1}" for j in range(width)), rows)


def target_names_path(table: str | Path) -> Path:
    """The file beside a table (`.csv`, `.csv.gz`) that has the names of its targets: `tracks-names.csv`."""
    table = Path(table)
    return table.with_name(f"{table.name.removesuffix('.gz').removesuffix('.csv')}-names.csv")


def write_target_names(path: str | Path, names: Sequence[str]) -> None:
    """Write what target1, target2, … of a table are called, as `--label-names` reads it.

    Raises InputError where the file cannot be written.
    """
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", "name"])
        writer.writerows([f"target{j}", text_cell(name)] for j, name in enumerate(names, 1))
