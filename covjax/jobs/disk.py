"""Files that are whole or not there, and digests by which a change shows.

What is read back was written here byte for byte, or it is refused before anything is parsed: edited, cut, empty and
flipped files alike. The digest is no secret: it shows damage and edits, not forgery.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from covjax.errors import InputError, shown

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEXTS = (*map(os.strerror, FULL), "ENOSPC", "EDQUOT", "EFBIG")
TEMPORARY = "covjax-tmp"  # in the names of what is not complete


def refuse_address(argument: str, path: str | Path) -> None:
    """Refuse `gs://…` and its like where something is to be read or written: locks and renames need a file system.

    Raises InputError; `argument` is the name of what was given.
    """
    if scheme := re.match("[A-Za-z][A-Za-z0-9+.-]+(?=:/)", str(path)):
        raise InputError(
            f"{argument}: {path} is an address ({scheme[0]}:), and covjax reads and writes in a file system; "
            "mount it as a folder, or work on a disk and copy from or to the address"
        )


def refuse_existing(argument: str, path: str | Path, force: bool, kind: str) -> None:
    """InputError, naming `argument`, where something is at `path` and `force` does not allow to replace it."""
    if os.path.lexists(path) and not force:
        raise InputError(f"{argument}: {path} is there already; name another {kind}, or add --force to replace it")


def full_disk(error: BaseException | None) -> str | None:
    """What the system said of a full disk, quota or file-size limit, where that is what an error comes from.

    Its causes are searched too, and their texts: Orbax and TensorStore hand on the text alone.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, OSError) and each.errno in FULL:
            return os.strerror(each.errno)
        if not isinstance(each, InputError) and (text := next((t for t in TEXTS if t in str(each)), None)):
            return text if " " in text else os.strerror(getattr(errno, text))
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return None


def error_text(error: BaseException) -> str | None:
    """The one line of an error that the user can put right (InputError, full disk, no path); None for any other."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, Exception) and (text := full_disk(error)):
        return f"the disk is full ({text}); make room, then run the same command again"
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{shown(error.filename)}: {error.strerror}"  # any use of such a path fails
    return None


@contextlib.contextmanager
def writing(path: str | Path, size: int | None = None) -> Iterator[None]:
    """Turn errors of a full disk into one line of `path`; `size` is the bytes that the file or folder needs."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (text := full_disk(error)) is None:
            raise
        raise InputError(f"{path}: cannot be written: {text}{_room(Path(path), size)}") from None


def _room(path: Path, size: int | None) -> str:
    needed = "" if size is None else f"; about {size:,} bytes are needed"
    folder = next((each for each in path.absolute().parents if each.is_dir()), None)
    with contextlib.suppress(OSError):
        if folder is not None:
            needed += f"{';' if size is None else ','} {shutil.disk_usage(folder).free:,} are free"
    return f"{needed}; make room, then run the same command again"


def sync(path: str | Path) -> None:
    """Bring a file, or a folder with all that is in it, to the disk itself."""
    path = Path(path)
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync_one(Path(folder, name))
            _sync_one(Path(folder))
    else:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems have no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(handle)


def put(temporary: str | Path, path: str | Path) -> None:
    """Give a finished file or folder its name, in place of what has it, so that it is whole after a power cut too."""
    temporary, path = Path(temporary), Path(path)
    sync(temporary)
    if path.is_dir() and not path.is_symlink():
        old = path.with_name(f"{path.name}.{TEMPORARY}-old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, path)
    _sync_one(path.parent)


_END = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n\}\n')
_LENGTH = len(b',\n "seal": ""\n}\n') + 64
_LINE = re.compile(r'(.*), "seal": "([0-9a-f]{16})"\}')


class Damaged(InputError):
    """A file of a run is not as the run wrote it."""


def json_digest(value: Any) -> str:
    """SHA-256 of plain values as JSON with sorted keys: equal for equal values, in any order of the keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
