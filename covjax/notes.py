"""What a run says beside its results and errors, which `--quiet` silences: notes and progress bars."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

_silent = False


@contextlib.contextmanager
def silence(quiet: bool) -> Iterator[None]:
    """Within it neither notes nor progress bars are shown, where `quiet`."""
    global _silent
    before, _silent = _silent, _silent or quiet
    try:
        yield
    finally:
        _silent = before


def note(text: str) -> None:
    """Print a line that a reader of the results does not need."""
    if not _silent:
        print(text, flush=True)


def progress(*items: Any, disable: bool | None = False, **options: Any) -> Any:
    """A progress bar, with the arguments of `tqdm.tqdm`."""
    return tqdm(*items, disable=True if _silent else disable, **options)
