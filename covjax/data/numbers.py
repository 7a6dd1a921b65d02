"""Numbers as people write them in tables, decimal commas among them; nothing that could be read in two ways."""

import re
from collections.abc import Sequence

from covjax.errors import InputError, shown

PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(
    r"[+-]?[1-9][0-9]{0,2}((,[0-9]{3})+(\.[0-9]*)?|(\.[0-9]{3})+,[0-9]+|([ '’\u00a0\u202f][0-9]{3})+([.,][0-9]*)?)"
)
INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
# As tables spell a value that is not there. "Na" is not among them: it is sodium.
MISSING = {
    *("", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "None", "none", "NONE"),
    *("null", "Null", "NULL", "-", "?"),
}


def is_missing(cell: str) -> bool:
    """Whether a cell says that its value is not there: empty, or one of the spellings in `MISSING`."""
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
