"""Scalars of a run: a JSON line per row, TensorBoard event files, Weights & Biases where asked for."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covjax.errors import InputError


class Log:
    """Writes `folder`/log.jsonl, and `folder`/tensorboard where the package tensorboardX is installed.

    Rows after `step` are those of a killed run beyond its last checkpoint: they are dropped, and will come again.
    Raises InputError where the folder cannot be written, or wandb is asked for but not installed.
    """

    def __init__(self, folder: str | Path, step: int, wandb: str = "", config: Mapping[str, Any] | None = None):
        self._wandb = _wandb(wandb, folder, config) if wandb else None
        self.path = Path(folder) / "log.jsonl"
        kept = [row for row in read_log(folder) if row["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(temporary, self.path)
            self._file = self.path.open("a")
        except OSError as error:
            raise InputError(f"output: {folder} cannot be written: {error.strerror}") from None
        self._board = _tensorboard(Path(folder) / "tensorboard", step)

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """One row: `split` is "train" or "held-out"."""
        row = {"step": step, "split": split, **values, "seconds": round(seconds, 3)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{split}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Finish all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class NoLog:
    """The log of a process that is not the one that writes it."""

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of `folder`/log.jsonl; a last line that a killed run left half written is left out."""
    rows = []
    path = Path(folder) / "log.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


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
