"""FASTA as a stream, so that a genome is never held whole."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from covjax.errors import InputError


def stream_fasta(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line of the header, header without `>`, sequence) one record after the other; `.gz` is read as well.

    Letters are left as they are; white space inside the sequence lines is dropped at their ends only.

    Raises InputError for a file that cannot be read as text and for a sequence before the first header.
    """
    path = Path(path)
    header: str | None = None
    start = 0
    parts: list[str] = []
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix.lower() == ".gz"
            else path.open(encoding="utf-8-sig") as file
        ):
            for number, line in enumerate(file, 1):
                if line.startswith(">"):
                    if header is not None:
                        yield start, header, "".join(parts)
                    header, start, parts = line[1:].strip(), number, []
                elif line.strip():
                    if header is None:
                        raise InputError(f"{path}: line {number}: a sequence before the first header '>'")
                    parts.append(line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    if header is not None:
        yield start, header, "".join(parts)
