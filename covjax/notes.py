"""What a person sees of a run: text made safe to show, notes and progress bars, which `--quiet` silences."""

import contextlib
import functools
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

# Control, format (marks of direction, zero width), surrogate, private, unassigned; line and paragraph separators.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: object) -> str:
    """The text with every character that a reader would not see written as its escape, such as `\\u202e`."""
    return "".join(_escape(c) if unicodedata.category(c) in _HIDDEN else c for c in str(text))


def figure_text(text: object, most: int = 60) -> str:
    """The text for Matplotlib: no mathematics in it, one line, at most `most` characters, in letters the font has.

    Of a longer text the beginning and the end are shown.
    """
    whole = str(text)
    start, end = whole[:most], whole[-most:]  # a slice first: of a million letters few are drawn
    shown = "".join(map(_drawable, start)) if len(whole) <= most else ""
    if not shown or len(shown) > most:
        third = most // 3
        head, tail = "".join(map(_drawable, start)), "".join(map(_drawable, end))
        shown = whole and f"{head[: most - third - 1]}…{tail[-third:]}"
    return shown.replace("$", r"\$")


def _escape(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode() if not letter.isascii() else repr(letter)[1:-1]


@functools.cache
def _drawable(letter: str) -> str:
    if unicodedata.category(letter) in _HIDDEN or not _font().get_char_index(ord(letter)):
        return _escape(letter)
    return letter


@functools.cache
def _font():
    from matplotlib import font_manager

    return font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))


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


class _Lines:
    """Standard error for a progress bar without a terminal: what would overwrite the line before is one of its own."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def progress(*items: Any, disable: bool | None = False, **options: Any) -> Any:
    """A progress bar, with the arguments of `tqdm.tqdm`; without a terminal a line every half minute."""
    from tqdm import tqdm  # a benchmark of the core runs where few packages are

    if not sys.stderr.isatty():
        options = {"mininterval": 30.0, "maxinterval": 60.0, "file": _Lines(), "ascii": True, "ncols": 100} | options
    return tqdm(*items, disable=True if _silent else disable, **options)
