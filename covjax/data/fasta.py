"""FASTA as a stream, so that a genome is never held whole."""

from collections.abc import Iterator
from pathlib import Path

from covjax.data.text import text_lines
from covjax.errors import InputError, shown


def stream_fasta(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line of the header, header without `>`, sequence) one record after the other; `.gz` is read as well.

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
