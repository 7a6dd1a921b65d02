"""Columns of text from a Parquet file."""

from pathlib import Path
from typing import Any

from covjax.errors import InputError, shown
from covjax.extras import need


def read_columns(path: str | Path, required: str, *others: str) -> dict[str, list[str | None]]:
    """Columns of a Parquet file as strings, None where a cell is null; of `others` those that the file has.

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
