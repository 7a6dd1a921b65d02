"""Text files, compressed or not."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from covjax.errors import InputError


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line with its end) without holding the file; decompressed under `.gz`, UTF-8.

    Raises InputError where the file is missing, truncated or not text.
    """
    path = Path(path)
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            yield from enumerate(file, 1)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None


def read_text(path: str | Path) -> str:
    """A whole file with its line ends as they are; as `text_lines` otherwise."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
