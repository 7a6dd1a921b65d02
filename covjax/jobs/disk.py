"""Files that survive a power cut, and errors of a full disk, which libraries wrap in many ways."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from covjax.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEXTS = (*map(os.strerror, FULL), "ENOSPC", "EDQUOT", "EFBIG")
TEMPORARY = "covjax-tmp"  # in the names of what is not complete


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
    return f"{needed}; make room, and the same command goes on"


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
