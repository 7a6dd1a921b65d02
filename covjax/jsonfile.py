"""JSON objects from files that a user may have cut, edited or mistaken for something else: read, or refused by name."""

import json
from pathlib import Path
from typing import Any

from covjax.errors import InputError, shown


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, in UTF-8 with or without a byte-order mark.

    Raises InputError, one line that names the file, for one that is missing, a folder, unreadable, empty, cut, nested
    too deep, in another encoding or no object, and for a key that stands twice in one object.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from None
    return parse_json(content, str(path))


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """Parse the bytes of a JSON object; `name` stands for them in messages, and errors are those of `read_json`."""
    if not content.strip():
        raise InputError(f"{name}: not JSON: it is empty")
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not JSON in UTF-8: byte {error.start} cannot be read") from None
    except RecursionError:
        raise InputError(f"{name}: not JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        raise InputError(f"{name}: not JSON: {shown(str(error), 200)[1:-1]}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name}: a JSON {type(value).__name__}, expected an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice, 60)} stands twice in one object")
    return made
