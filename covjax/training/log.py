"""Scalars of a run: a JSON line per row, TensorBoard event files, Weights & Biases where asked for."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covjax.errors import InputError
from covjax.jobs.disk import writing
from covjax.jobs.folder import write_text
from covjax.jobs.seal import read_line, sealed_line


class Log:
    """Writes `folder`/log.jsonl, and `folder`/tensorboard where the package tensorboardX is installed.

    Rows after `step` are those of a killed run beyond its last checkpoint: they are dropped, and will come again. Of
    the `rows` before it, those that are missing or not as they were written are said to be lost.
    Raises InputError where the folder cannot be written, or wandb is asked for but not installed.
    """

    def __init__(
        self, folder: str | Path, step: int, rows: int = 0, wandb: str = "", config: Mapping[str, Any] | None = None
    ):
        self._wandb = _wandb(wandb, folder, config) if wandb else None
        self.path = Path(folder) / "log.jsonl"
        before = [row for row in read_log(folder) if row["step"] <= step]
        if len(before) < rows:
            print(f"note: {self.path}: {rows - len(before)} of {rows} rows are missing or damaged", file=sys.stderr)
        self.rows = rows
        write_text(self.path, "".join(sealed_line(row) + "\n" for row in before))
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"output: {folder} cannot be written: {error.strerror}") from None
        self._board = _tensorboard(Path(folder) / "tensorboard", step)

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """One row: `split` is "train" or "held-out"."""
        row = {"step": step, "split": split, **values, "seconds": round(seconds, 3)}
        with writing(self.path):
            self._file.write(sealed_line(row) + "\n")
            self._file.flush()
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(f"{split}/{name}", value, step)
        self.rows += 1
        if self._wandb is not None:
            self._wandb.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Finish all files."""
        with writing(self.path):
            self._file.close()
            if self._board is not None:
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class NoLog:
    """The log of a process that is not the one that writes it; it counts the rows."""

    def __init__(self, rows: int = 0):
        self.rows = rows

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """Nothing but one row more."""
        self.rows += 1

    def close(self) -> None:
        """Nothing."""


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of `folder`/log.jsonl that are as they were written; the last one of a killed run may be cut in half."""
    path = Path(folder) / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return [row for line in lines if (row := read_line(line)) is not None]


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(project: str, folder: str | Path, config: Mapping[str, Any] | None) -> Any:
    try:
        import wandb
    except ImportError:
        raise InputError(f"wandb: {project!r} is asked for, but the package wandb is not installed") from None
    return wandb.init(project=project, dir=str(folder), config=dict(config or {}), resume="allow")
