"""Labelled sequences in memory: what every table, workbook and FASTA file becomes."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from covjax.data.spreadsheets import SUFFIXES
from covjax.data.tidy import has_words


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Sequences with their targets.

    `targets` is (n, k): booleans for `multilabel` and `multiclass` (one-hot), float64 for `regression`.
    `splits` is None until `assign_splits` or the file has given one of train, validation, test to every row. `lines`
    are the numbers of the file's lines on which the rows begin (of Excel and Parquet the rows' numbers); `notes` say in
    a line each what the reader took for what, changed or left out.
    """

    name: str
    task: str
    ids: tuple[str, ...]
    sequences: tuple[str, ...]
    targets: np.ndarray
    target_names: tuple[str, ...]
    groups: tuple[str, ...]
    splits: np.ndarray | None
    has_group_column: bool
    lines: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    grouping: str = ""  # how groups were made where the file has no group column; "" until `assign_splits`
    warnings: tuple[str, ...] = ()  # what a reader of results must be warned of
    one_family: bool = False  # over half of the sequences are near copies of each other, and none are grouped

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def is_text(self) -> bool:
        """Words, not residues or nucleotides: white space stands in some sequence."""
        return has_words(self.sequences)

    def place(self, row: int) -> str:
        """Where a row stands in its file, for messages: "line 17", or "row 17" where the file has no lines."""
        if not self.lines:
            return f"row {row + 1}"
        return f"{unit(Path(self.name))} {self.lines[row]}"

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        if self.splits is None:
            raise ValueError("splits: not assigned yet; call assign_splits first")
        return np.flatnonzero(self.splits == split)

    def fingerprint(self) -> str:
        """SHA-256 over every id, sequence, target, group and split: the identity of the data in a manifest."""
        digest = hashlib.sha256(repr((self.task, self.target_names)).encode())
        for row in zip(self.ids, self.sequences, self.groups):
            digest.update(repr(row).encode())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        digest.update(repr(None if self.splits is None else self.splits.tolist()).encode())
        return digest.hexdigest()


def unit(path: Path) -> str:
    """What the numbers of a file's rows count: "line", or "row" in a file without lines."""
    return "row" if path.suffix.lower() in SUFFIXES else "line"
