"""Tables in files that are not text: Excel workbooks and Parquet."""

import datetime
import math
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from covjax.data.text import Row, Table
from covjax.errors import InputError, shown
from covjax.extras import need

SUFFIXES = (".xlsx", ".xlsm", ".parquet")
MOST_CELLS = 50_000_000  # that a sheet may span; one cell far out would make it billions
ERRORS = ("#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!")
Select = Callable[[Row], Collection[int]]


def read_spreadsheet(path: str | Path, select: Select, notes: list[str]) -> Table:
    """Read an `.xlsx` or `.parquet` file; `select` gets the header and gives the numbers of the columns to read.

    Every other column comes back empty, so that what nobody needs cannot stop the file. A row's number is that of the
    sheet (Excel) or counts from 1 (Parquet). Numbers become the shortest text that reads back as the same number, lists
    their members separated by `;`, missing values empty text. A formula counts as the value stored with it. Of a
    workbook's sheets the first that holds anything is read; `notes` gets a line where others hold data too.

    Raises InputError where openpyxl (extra `excel`) or pyarrow is not installed, for a damaged file, an empty one, and
    in the selected columns for dates, errors of Excel, formulas without a stored value and bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, select)
    return _read_excel(path, select, notes)


def _read_excel(path: Path, select: Select, notes: list[str]) -> Table:
    openpyxl = need("openpyxl", "excel", f"{path}: an Excel workbook (or save the sheet as CSV UTF-8)")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an Excel workbook, or a damaged one; save it again as .xlsx or as CSV UTF-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which hold no values
            sheets = [(name, rows) for name, rows in _sheets(openpyxl, path, values=True) if any(map(_filled, rows))]
            if not sheets:
                raise InputError(f"{path}: the workbook is empty, or holds formulas without stored values only")
            name, rows = sheets[0]
            head = next(n for n, row in enumerate(rows) if _filled(row))
            header = Row(head + 1, tuple("" if value is None else str(value) for value in rows[head]))
            selected = sorted(select(header))
            for n, j in _formulas(openpyxl, path, name, rows[head + 1 :], selected):
                raise InputError(
                    f"{path}: row {head + 2 + n}: column {shown(header.cells[j], 40)} is a formula without a stored "
                    "value; open the file in Excel and save it"
                )
    except InputError:
        raise
    except Exception as error:  # whatever a damaged part of the archive makes the parser raise
        raise InputError(f"{path}: damaged workbook ({shown(str(error))}); save it again as .xlsx") from None
    if len(sheets) > 1:
        others = ", ".join(shown(other, 40) for other, _ in sheets[1:4])
        notes.append(f"sheet {shown(name, 40)} is read, not {others}{', …' if len(sheets) > 4 else ''}")
    table = []
    for number, values in enumerate(rows[head + 1 :], head + 2):
        if _filled(values):
            row = [""] * len(values)
            for j in selected:
                row[j] = _text(path, number, header.cells[j], values[j])
            if all(row[j] == header.cells[j] for j in selected):
                raise InputError(
                    f"{path}: row {number}: the header of row {head + 1} is repeated there, as in sheets that were "
                    "joined; remove the row"
                )
            table.append(Row(number, tuple(row)))
    return Table(header, table, "")


Cells = tuple[Any, ...]


def _filled(row: Cells) -> bool:
    return any(value.strip() if isinstance(value, str) else value is not None for value in row)


def _sheets(openpyxl: Any, path: Path, values: bool) -> list[tuple[str, list[Cells]]]:
    """(name, rows) of every sheet, from its first row on; `values`: of formulas what is stored with them."""
    # Not read_only: that mode loses rows whose numbers do not ascend.
    with path.open("rb") as file:  # openpyxl leaves a file of its own open where it is damaged
        book = openpyxl.load_workbook(file, data_only=values)
    for sheet in book.worksheets:
        if sheet.max_row * sheet.max_column > MOST_CELLS:
            size = f"{sheet.max_row:,} rows of {sheet.max_column:,} columns"
            raise InputError(f"{path}: sheet {shown(sheet.title, 40)} spans {size}; save the table as CSV UTF-8")
    return [(sheet.title, list(sheet.iter_rows(values_only=True))) for sheet in book.worksheets]


def _formulas(openpyxl: Any, path: Path, name: str, rows: list[Cells], columns: list[int]) -> Iterator[tuple[int, int]]:
    """(row, column) of formulas among the last rows of a sheet that no program has computed: they look empty."""
    empty = [(n, j) for n, row in enumerate(rows) for j in columns if row[j] is None]
    if empty:
        written = dict(_sheets(openpyxl, path, values=False))[name][-len(rows) :]
        yield from ((n, j) for n, j in empty if written[n][j] is not None)


def _read_parquet(path: Path, select: Select) -> Table:
    parquet = need("pyarrow.parquet", "parquet", f"{path}: reading Parquet")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = tuple(file.schema_arrow.names)
            header = Row(0, names)
            selected = sorted(select(header)) if names else []
            # By position: another column of the same name does no harm.
            columns = {j: file.read(columns=[names[j]]).column(0).to_pylist() for j in selected}
            count = file.metadata.num_rows
            if bad := [j for j in selected if len(columns[j]) != count]:
                raise ValueError(f"column {names[bad[0]]!r} has {len(columns[bad[0]])} of {count} rows")
    except InputError:
        raise
    except Exception as error:  # pyarrow raises a dozen kinds, by where the damage stands
        raise InputError(f"{path}: cannot be read as Parquet ({shown(str(error))}); write it again") from None
    if not names:
        raise InputError(f"{path}: no columns")
    rows = []
    for i in range(count):
        row = [""] * len(names)
        for j in selected:
            row[j] = _text(path, i + 1, names[j], columns[j][i])
        rows.append(Row(i + 1, tuple(row)))
    return Table(header, rows, "")


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if value is None:
        return ""
    where = f"{path}: row {number}: column {shown(column, 40)}"
    if isinstance(value, str):
        if value in ERRORS:
            raise InputError(f"{where} is the error {value} of Excel; mend the formula or empty the cell")
        return value
    if isinstance(value, bool | int | Decimal):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list):
        parts = [_text(path, number, column, part) for part in value]
        if any(";" in part for part in parts):
            raise InputError(f"{where} is a list with ';' in a member, which separates members; rename it")
        return ";".join(parts)
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        remedy = "Excel turns names such as MARCH1 into dates: format the column as text and enter it again"
        raise InputError(f"{where} is a date ({shown(str(value), 40)}), not text or a number; {remedy}")
    raise InputError(f"{where} is of type {type(value).__name__}; text, numbers and lists of them can be read")


def read_columns(path: str | Path, required: str, *others: str) -> dict[str, list[str | None]]:
    """Columns of a Parquet file as strings, None for null cells; columns of `others` may be missing.

    Taken are text in each of Arrow's layouts, also dictionary-encoded, and whole numbers, as they are written. A
    `required` column holds text.

    Raises InputError where pyarrow is not installed, for a file that is no whole Parquet file, without the required
    column or with a column twice, and for a column of another type.
    """
    pyarrow = need("pyarrow", "parquet", f"{path}: reading Parquet")
    parquet = need("pyarrow.parquet", "parquet", f"{path}: reading Parquet")
    try:
        with open(path, "rb") as source, parquet.ParquetFile(source, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if names.count(required) != 1:
                what = "missing column" if required not in names else f"{names.count(required)} times the column"
                raise InputError(f"{path}: {what} {required!r}; its columns: {shown(', '.join(names), 200)}")
            wanted = [required, *(name for name in others if name in names)]
            table = file.read(columns=wanted)
            if table.num_rows != file.metadata.num_rows:
                raise InputError(f"{path}: damaged: {table.num_rows} of {file.metadata.num_rows} rows can be read")
            table.validate(full=True)
            return {name: _strings(path, pyarrow, name, table[name], name == required) for name in wanted}
    # Damage reaches pyarrow's own errors, Unicode's, and those of numbers too large for what they count.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        reason = shown(str(error).strip().split("\n")[0], 150)
        raise InputError(f"{path}: cannot be read as Parquet: {reason}; fetch or make the file again") from None


def _strings(path: str | Path, pyarrow: Any, name: str, column: Any, text: bool) -> list[str | None]:
    types = pyarrow.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return column.to_pylist()
    if types.is_integer(kind) and not text:
        return [None if value is None else str(value) for value in column.to_pylist()]
    allowed = "text" if text else "text or whole numbers"
    raise InputError(f"{path}: column {name!r} is of type {shown(str(column.type), 60)}; save it as {allowed}")
