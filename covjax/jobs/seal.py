"""JSON files that say when they were changed: a SHA-256 of all that stands before it ends the file, or the line.

What is read back was written here byte for byte, or it is refused before anything is parsed: edited, cut, empty and
flipped files alike. The digest is no secret: it shows damage and edits, not forgery.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from covjax.errors import InputError

_END = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n\}\n')
_LENGTH = len(b',\n "seal": ""\n}\n') + 64
_LINE = re.compile(r'(.*), "seal": "([0-9a-f]{16})"\}')


class Damaged(InputError):
    """A file of a run is not as the run wrote it."""


def sealed(value: dict[str, Any]) -> str:
    """The text of a sealed JSON file, to be written as UTF-8; `value` has at least one entry, and none named "seal"."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # half a surrogate pair, which UTF-8 does not have
        text = json.dumps(value, indent=1)
    text = text[: -len("\n}")]
    return f'{text},\n "seal": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def read_sealed(path: str | Path) -> dict[str, Any]:
    """What `sealed` wrote, without the seal; FileNotFoundError where there is none.

    Raises Damaged, naming the file, where any byte of it is not as written.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _LENGTH, 0))
            found = _END.fullmatch(file.read())
            if found is not None:
                file.seek(0)
                digest = hashlib.sha256()
                for start in range(0, size - _LENGTH, 1 << 20):
                    digest.update(file.read(min(1 << 20, size - _LENGTH - start)))
                if digest.hexdigest() == found[1].decode():
                    file.seek(0)
                    value = json.loads(file.read())
                    del value["seal"]
                    return value
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{path}: cannot be read: {error.strerror or error}") from None
    raise Damaged(f"{path}: changed or damaged")


def sealed_line(row: dict[str, Any]) -> str:
    """One line of a sealed JSON-lines file, without its end."""
    text = json.dumps(row)[:-1]
    return f'{text}, "seal": "{_short(text)}"}}'


def read_line(text: str) -> dict[str, Any] | None:
    """What `sealed_line` wrote, without the seal; None where it is not as written."""
    found = _LINE.fullmatch(text)
    if found is None or _short(found[1]) != found[2]:
        return None
    row = json.loads(text)
    del row["seal"]
    return row


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
