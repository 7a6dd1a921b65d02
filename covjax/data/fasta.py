"""FASTA as a stream, so that a genome is never held whole."""

from collections.abc import Iterator
from pathlib import Path

from covjax.data.text import text_lines
from covjax.errors import InputError


def stream_fasta(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line of the header, header without `>`, sequence) one record after the other; `.gz` is read as well.

    Letters are left as they are; white space inside the sequence lines is dropped at their ends only.

    Raises InputError for a file that cannot be read as text and for a sequence before the first header.
    """
    header: str | None = None
    start = 0
    parts: list[str] = []
    for number, line in text_lines(path):
        if line.startswith(">"):
            if header is not None:
                yield start, header, "".join(parts)
            header, start, parts = line[1:].strip(), number, []
        elif line.strip():
            if header is None:
                raise InputError(f"{path}: line {number}: a sequence before the first header '>'")
            parts.append(line.strip())
    if header is not None:
        yield start, header, "".join(parts)
