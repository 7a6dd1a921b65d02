"""Text files that are whole or not there, with the same bytes for the same content."""

import errno
import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from covjax.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def new_text(path: str | Path) -> Iterator[TextIO]:
    """Open a file for writing (UTF-8; compressed under `.gz`, without a time stamp) that takes its name at the end.

    An exception inside leaves what stood under the name before, or nothing.

    Raises InputError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    with folder:
        whole = Path(folder.name) / path.name
        try:
            with whole.open("wb") as raw:
                packed = gzip.GzipFile("", "wb", 9, raw, mtime=0) if path.suffix.lower() == ".gz" else None
                with io.TextIOWrapper(packed or raw, encoding="utf-8", newline="") as text:
                    yield text
            os.replace(whole, path)
        except OSError as error:
            if error.errno not in FULL:  # another one may be the caller's, of what it reads meanwhile
                raise
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
