"""Text files line by line, FASTA among them, and counts of the lines that were left out."""

import codecs
import contextlib
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from covjax.errors import InputError, shown

csv.field_size_limit(2**31 - 1)  # the module's own limit of 131,072 letters is shorter than many a gene
CHUNK = 1 << 16
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon"}
# What the first bytes of a file say that is no text.
BINARY = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; name a workbook .xlsx, or save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls); save it as CSV UTF-8",
    b"PAR1": "a Parquet file; name it .parquet",
    **{b"BZh%d" % level: "compressed by bzip2; decompress it first" for level in range(1, 10)},
    b"\xfd7zXZ": "compressed by xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it first",
    b"\x1f\x8b": "compressed by gzip twice; decompress it once",
    codecs.BOM_UTF32_LE: "UTF-32 text; save it as UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32 text; save it as UTF-8",
}


class Row(NamedTuple):
    """One record of a delimited file and the number of the line on which it begins, counted from 1."""

    line: int
    cells: tuple[str, ...]


class Table(NamedTuple):
    """A delimited file: its header, its rows, each with as many cells as the header, and what separates the cells."""

    header: Row
    rows: list[Row]
    delimiter: str


def text_lines(path: str | Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield every line of a text file with its number, counted from 1, and without its end.

    A line ends with LF, CRLF or CR and with nothing else: form feed, NEL, U+2028 and U+2029 are text. Read are UTF-8
    with or without a byte order mark, UTF-16 with one, and each of them compressed by gzip, whatever the file is named.
    The file is never held whole. `encoding` is for published files known to be in another one.

    Raises InputError, naming the line where there is one, for a file that cannot be opened, damaged gzip data, another
    encoding (with the remedy), and binary content.
    """
    number, parts = 0, list[str]()
    for chunk in _decoded(Path(path), encoding):
        first, *others = chunk.split("\n")
        parts.append(first)
        if others:
            number += 1
            yield number, "".join(parts)
            parts = [others.pop()]
            for line in others:
                number += 1
                yield number, line
    if last := "".join(parts):
        yield number + 1, last


def read_text(path: str | Path) -> str:
    """Read a whole text file; every line end becomes LF. Encodings and errors as in `text_lines`."""
    return "".join(_decoded(Path(path)))


def read_delimited(path: str | Path, delimiter: str | None = None) -> Table:
    """Read a file of comma, tab or semicolon separated values with a header.

    Blank lines are passed over. Cells may be quoted as in RFC 4180: `"` around the cell, `""` for one inside. A
    quotation mark within a cell that does not begin with one is text. `delimiter=None` takes the one of the three that
    splits the header into the most cells, outside quotes (of a header with one cell the suffix `.tsv` or `.tab` says
    that it is the tab); a first line `sep=;`, as Excel writes it, names it instead.

    Raises InputError, naming the line, for an empty file, a row with more or fewer cells than the header, text behind
    a closing quotation mark, a quotation mark that is never closed, and one that swallows whole lines (where every
    line of a quoted cell would be a row of its own, the mark is taken for an unbalanced one). Else as `text_lines`.
    """
    lines = list(text_lines(path))
    head = next((i for i, (_, line) in enumerate(lines) if line.strip()), None)
    if head is None:
        raise InputError(f"{path}: the file is empty")
    # How Excel is told the separator. Programs that save the file again quote that line, or fill it up with their own.
    if named := re.fullmatch(r'(?i)(?:sep=([,;\t])|"sep=[,;\t]")(?:([,;\t])\2*)?', lines[head][1]):
        delimiter, head = delimiter or named[2] or named[1], head + 1
    if delimiter is None:
        first = [lines[head][1]] if head < len(lines) else [""]
        tabs = not {".tsv", ".tab"}.isdisjoint(suffix.lower() for suffix in Path(path).suffixes)
        # Of a header with one cell nothing but the file's name tells.
        delimiter = max(
            DELIMITERS, key=lambda mark: (len(next(csv.reader(first, delimiter=mark))), tabs and mark == "\t")
        )
    header, *rows = _cells(path, lines[head:], delimiter) or [Row(0, ())]
    if not header.cells:
        raise InputError(f"{path}: no header")
    width = len(header.cells)
    for row in rows:
        if len(row.cells) != width:
            raise InputError(
                f"{path}: line {row.line}: {len(row.cells)} cells separated by {DELIMITERS.get(delimiter, delimiter)}, "
                f"but {width} in the header; {_width_remedy(header, row)}"
            )
        if row.cells == header.cells:
            raise InputError(
                f"{path}: line {row.line}: the header of line {header.line} is repeated there, as in files that were "
                "joined; remove the line"
            )
    return Table(header, rows, delimiter)


def plain_suffix(path: Path) -> str:
    """The last suffix in small letters, that of the file within a `.gz`; empty where there is none."""
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "")


def filled_rows(rows: Sequence[Row], notes: list[str]) -> list[Row]:
    """The rows with something in a cell; `notes` gets a line with how many have nothing, as spreadsheets leave."""
    filled = [row for row in rows if any(map(str.strip, row.cells))]
    if empty := len(rows) - len(filled):
        notes.append(f"{empty:,} of {len(rows):,} rows are of empty cells alone and passed over")
    return filled


def _width_remedy(header: Row, row: Row) -> str:
    if len(header.cells) == 1:
        return (
            f"line {header.line} ({shown(header.cells[0], 40)}) is read as the header: remove a title or comment "
            "above it, and put quotation marks around cells that hold the separator"
        )
    if row.cells[0].startswith("#"):
        return "remove the comment"
    longer, shorter = sorted((header.cells, row.cells), key=len, reverse=True)
    if not any(cell.strip() for cell in longer[len(shorter) :]):
        return "remove the separators at the ends of lines"
    return "a cell that holds the separator needs quotation marks around it"


def _cells(path: str | Path, lines: list[tuple[int, str]], delimiter: str) -> list[Row]:
    """Rows of strict CSV; blank lines outside quotes are passed over."""
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    width = 0
    while True:
        first = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            line, text = lines[first]
            last = lines[reader.line_num - 1][0]
            where = f"line {line}" if last == line else f"lines {line} to {last}"
            raise InputError(
                f"{path}: {where}: {_reason(str(error))}; write a quotation mark that is text as two, within quotes: "
                f'"…""…": {shown(text, 60)}'
            ) from None
        if cells is None:
            return rows
        span = lines[first : reader.line_num]
        # A blank line is one empty cell; in a file of one column a cell may be empty, but nothing says so.
        if len(cells) <= 1 and len(span) == 1 and not span[0][1].strip(" \t"):
            continue
        width = width or len(cells)
        if len(span) > 1 and width > 1 and all(line.count(delimiter) == width - 1 for _, line in span):
            raise InputError(
                f"{path}: lines {span[0][0]} to {span[-1][0]}: a quotation mark opens a cell in the first and closes "
                "it in the last, but each line looks like a separate row; double the marks that are text, or put "
                "the cell into one line"
            )
        rows.append(Row(span[0][0], tuple(cells)))


def _reason(message: str) -> str:
    if message.startswith("unexpected end"):
        return "a quotation mark is opened and never closed"
    if "expected after" in message:
        return "text behind a closing quotation mark"
    return message


def whole_number(text: str) -> int | None:
    """The number that 1 to 18 ASCII digits say, else None: `str.isdigit` takes "²", and int() takes "1_0" and "٣"."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _decoded(path: Path, encoding: str | None = None) -> Iterator[str]:
    """The file's text in chunks, every line end as LF."""
    lines = 1
    decoder = None
    try:
        with _opened(path) as file:
            while chunk := file.read(CHUNK):
                if decoder is None:
                    known = encoding or _encoding(path, chunk)
                    # Not TextIOWrapper: the line of a byte that is no text must be known.
                    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(known)(), True)
                text = decoder.decode(chunk)
                if "\0" in text:
                    line = lines + text[: text.index("\0")].count("\n")
                    reason = "a NUL character: binary, or UTF-16 without a byte order mark; save it as UTF-8"
                    raise InputError(f"{path}: cannot be read as text: line {line}: {reason}")
                lines += text.count("\n")
                yield text
            if decoder is not None:
                yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        line = lines + len(re.findall(rb"\r\n|\r|\n", error.object[: error.start]))
        guess = " (Latin-1 or Windows-1252?)" if error.encoding == "utf-8" else ""
        byte = f"the byte {error.object[error.start]:#04x} is not {error.encoding.upper()}{guess}"
        raise InputError(
            f'{path}: cannot be read as text: line {line}: {byte}; save the file as UTF-8 (Excel: "CSV UTF-8")'
        ) from None
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise InputError(
                f"{path}: cannot be read as text: damaged gzip data ({error}); fetch or make the file again"
            ) from None
        raise InputError(f"{path}: cannot be read as text: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read as text: damaged gzip data ({error}); fetch or make the file again"
        ) from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        start = raw.read(2)
        raw.seek(0)
        if start == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as file:
                yield cast(BinaryIO, file)
        elif start and path.suffix.lower() == ".gz":
            raise InputError(f"{path}: cannot be read as text: named .gz, but it holds no gzip data; rename it")
        else:
            yield raw


def _encoding(path: Path, start: bytes) -> str:
    for magic, what in BINARY.items():
        if start.startswith(magic):
            raise InputError(f"{path}: cannot be read as text: it is {what}")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def stream_fasta(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line of the header, header without `>`, sequence) of one record after the other, also from `.gz`.

    Letters are left as they are. White space in a sequence is dropped, and so are lines that begin with `;`, the
    comments of old FASTA. The sequence of a record that is a header alone is empty.

    Raises InputError, naming the line, for a file that cannot be read as text, a sequence before the first header, and
    `>` or `;` inside a sequence: most often two lines that have run together.
    """
    header: str | None = None
    start = 0
    parts: list[str] = []
    for number, line in text_lines(path):
        if line.startswith(">"):
            if header is not None:
                yield start, header, "".join(parts)
            header, start, parts = line[1:].strip(), number, []
        elif not line.startswith(";") and (words := line.split()):
            if header is None:
                raise InputError(f"{path}: line {number}: a sequence before the first header '>': {shown(line, 60)}")
            if ">" in line or ";" in line:
                raise InputError(f"{path}: line {number}: '>' or ';' inside a sequence: {shown(line, 60)}")
            parts += words
    if header is not None:
        yield start, header, "".join(parts)


Report = Callable[[str], object]
NAMED = 3  # records that a summary names
FEW, SHARE = 10, 0.01


def warn(summary: str) -> None:
    """Print a summary to standard error, which readers do unless their caller collects summaries."""
    print(f"warning: {summary}", file=sys.stderr)


class Skipped:
    """The records that were left out while one file was read.

    An annotation collection of millions of lines has a few that its own format does not allow: they must not stop it,
    and a file of another kind must not pass as an empty one.
    """

    def __init__(self, path: str | Path, what: str):
        self._path, self._what = path, what
        self.count = 0
        self._first: list[str] = []

    def add(self, reason: str, line: int | None = None) -> None:
        """Count a record; `reason` says what is wrong with it."""
        self.count += 1
        if len(self._first) < NAMED:
            self._first.append(reason if line is None else f"line {line}: {reason}")

    def close(self, sound: int, report: Report) -> None:
        """Give the summary to `report`, once, where anything was left out of a file with `sound` other records.

        Raises InputError where no record is sound, and where over 1 % are odd and these more than ten or than the
        sound ones.
        """
        if not self.count:
            return
        total = self.count + sound
        if self.count > SHARE * total and (self.count > min(FEW, sound)):
            raise InputError(f"{self._path}: {self._first[0]} ({self.count:,} of {total:,} {self._what} are odd)")
        report(f"{self._path}: left out {self.count:,} of {total:,} {self._what}: {'; '.join(self._first)}")
