"""Text files that are whole or not there, with the same bytes for the same content."""

import gzip
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from covjax.errors import InputError
from covjax.jobs.disk import TEMPORARY, put, writing

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBERS = re.compile(f"{_NUMBER}(?:;{_NUMBER})*")


def text_cell(value: str) -> str:
    """A text for a cell of a CSV or TSV file that a spreadsheet opens as text, whatever it begins with.

    The one rule for ids, sequences, labels and groups in files that covjax writes: before a text that begins with =, +,
    -, @, a tab or a carriage return (also after apostrophes of its own) stands one apostrophe. Numbers, also several
    joined by ;, stay as they are. `cell_text`, through which our readers pass such columns, takes it away again.
    """
    return f"'{value}" if _FORMULA.match(value) and not _NUMBERS.fullmatch(value) else value


def cell_text(value: str) -> str:
    """The text that `text_cell` wrote: an apostrophe before =, +, -, @, a tab or a carriage return is no part of it."""
    return value[1:] if value.startswith("'") and _FORMULA.match(value) else value


@contextmanager
def new_text(path: str | Path) -> Iterator[TextIO]:
    """Open a file for writing (UTF-8; compressed under `.gz`, without a time stamp) that takes its name at the end.

    An exception inside leaves what stood under the name before, or nothing.

    Raises InputError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{TEMPORARY}-")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    with folder:
        whole = Path(folder.name) / path.name
        with writing(path):
            with whole.open("wb") as raw:
                packed = gzip.GzipFile("", "wb", 9, raw, mtime=0) if path.suffix.lower() == ".gz" else None
                with io.TextIOWrapper(packed or raw, encoding="utf-8", newline="") as text:
                    yield text
            put(whole, path)
