"""Odd records of large collections: left out, counted, the first named, and never too many of them."""

import sys
from collections.abc import Callable
from pathlib import Path

from covjax.errors import InputError

Report = Callable[[str], object]
NAMED = 3  # records that a summary names
FEW, SHARE = 10, 0.01


def warn(summary: str) -> None:
    """Print a summary to standard error: what a reader does with it unless its caller collects summaries."""
    print(f"warning: {summary}", file=sys.stderr)


class Skipped:
    """The records that one reading of one file left out.

    An annotation collection of millions of lines has a few that its own format does not allow: they must not stop it,
    and a file of another kind must not pass as an empty one.
    """

    def __init__(self, path: str | Path, what: str):
        self._path, self._what = path, what
        self.count = 0
        self._first: list[str] = []

    def add(self, reason: str, line: int | None = None) -> None:
        """Count a record; `reason` says what is wrong with it."""
        self.count += 1
        if len(self._first) < NAMED:
            self._first.append(reason if line is None else f"line {line}: {reason}")

    def close(self, sound: int, report: Report) -> None:
        """Give the summary to `report`, once, where anything was left out of a file with `sound` other records.

        Raises InputError where no record is sound, and where over 1 % are odd and these more than ten or than the
        sound ones.
        """
        if not self.count:
            return
        total = self.count + sound
        if self.count > SHARE * total and (self.count > min(FEW, sound)):
            raise InputError(f"{self._path}: {self._first[0]} ({self.count:,} of {total:,} {self._what} are odd)")
        report(f"{self._path}: left out {self.count:,} of {total:,} {self._what}: {'; '.join(self._first)}")
