"""The folder of a run: who may write there, what it holds, and where a killed run goes on.

The lock is `flock`, which the system takes back when the process ends in whatever way. Over NFS Linux hands it to the
server (NFSv4, or v3 with lockd), so that it holds between machines; a file system without locks is said and gone on
with, and there only the identity protects.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covjax.errors import InputError, shown
from covjax.jobs import checkpoint
from covjax.jobs.checkpoint import CHECKPOINT, difference
from covjax.jobs.disk import TEMPORARY, Damaged, put, read_sealed, refuse_address, sealed, writing
from covjax.jobs.distributed import agree, is_first, once

LOCK = ".covjax-lock"
RUN = "covjax-run.json"
UNFINISHED = (TEMPORARY, "orbax-checkpoint-tmp")


class RunFolder:
    """A folder that `claim` took; `begin` says which run it holds, and refuses another."""

    def __init__(self, path: Path, command: str, owns: tuple[str, ...]):
        self.path, self.command, self.owns = path, command, owns
        self._handle: int | None = None
        self._new = self._adopted = False

    def begin(
        self,
        identity: Mapping[str, Any],
        force: bool = False,
        inputs: Mapping[str, str | Path | None] | None = None,
        grows: str = "",
    ) -> None:
        """Enter the run's identity (plain JSON), after every check and before anything else is written.

        Args:
            identity: what decides the numbers; a run of another one that has made something is refused with the
                difference.
            force: remove first what the folder's own list names as the run's; nothing else.
            inputs: argument → path of what is read, none of which the run may write or remove.
            grows: entry of the identity, a mapping, that a later run may extend; what both have must be equal.

        Raises:
            InputError: another run's folder; an input among what the run writes; `force` in a folder that no run of
                this command made.
        """
        once(lambda: self._begin(json.loads(json.dumps(identity)), force, inputs or {}, grows))
        if not (self.path / RUN).is_file():
            raise InputError(
                f"output: process {jax.process_index()} does not see {self.path} of process 0; all need one folder"
            )

    def _begin(self, identity: dict[str, Any], force: bool, inputs: Mapping[str, Any], grows: str) -> None:
        for name, given in inputs.items():
            if given:
                self.refuse_input(name, given)
        run = self._read()
        if run is not None and run["command"] != self.command:
            raise InputError(f"output: {self.path} holds a run of {run['command']}; use --output OTHER")
        present = any(True for pattern in self.owns for _ in self.path.glob(pattern))
        if force and run is None and present:
            raise InputError(
                f"output: {self.path} has no sound {RUN}, so --force does not know what in it is a run's; remove it "
                "yourself or use --output OTHER"
            )
        if force and run is not None:
            remove_own(self.path)
            run = None
        elif run is not None and present:
            self._refuse_other(run["identity"], identity, grows)
        elif present and not (self.path / RUN).exists() and (others := self._foreign()):
            raise InputError(
                f"output: {self.path} has {shown(others, 60)} and no {RUN}, so it may not be a run's; remove it "
                "yourself or use --output OTHER"
            )
        else:
            run, self._adopted = None, present  # the checkpoints' own manifests say whether they are this run's
        self._tidy()
        if run is not None and grows:
            identity[grows] = run["identity"][grows] | identity[grows]
        if run is None or run["identity"] != identity or run["owns"] != list(self.owns):
            write_sealed(self.path / RUN, {"command": self.command, "identity": identity, "owns": list(self.owns)})

    def _foreign(self) -> str:
        """What has a name of the run's own, where nothing there is known as a run's by a seal; else nothing."""
        paths = [path for pattern in self.owns for path in sorted(self.path.glob(pattern))]
        known = any((path / CHECKPOINT).is_file() or _is_sealed(path) for path in paths)
        filled = [path for path in paths if not path.is_dir() or any(path.iterdir())]
        return "" if known or not filled else filled[0].relative_to(self.path).as_posix()

    def _read(self) -> dict[str, Any] | None:
        try:
            return read_sealed(self.path / RUN)
        except FileNotFoundError:
            return None
        except Damaged as error:
            print(f"note: {error}; it is written again", file=sys.stderr)
            return None

    def _refuse_other(self, saved: dict[str, Any], wanted: dict[str, Any], grows: str) -> None:
        if grows:
            both = saved[grows].keys() & wanted[grows].keys()
            saved, wanted = ({**each, grows: {key: each[grows][key] for key in both}} for each in (saved, wanted))
        if lines := difference(saved, wanted):
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise InputError(
                f"output: {self.path} holds another run: {'; '.join(lines[:3])}{more}; use --output OTHER or --force"
            )

    def refuse_input(self, name: str, given: str | Path) -> None:
        """Raise InputError where an argument's file or folder is the run's own, or a store and the folder overlap."""
        path, folder = Path(given).resolve(), self.path.resolve()
        if name == "store" and (path == folder or path in folder.parents or folder in path.parents):
            raise InputError(f"{name}: {given} and output {self.path} lie in one another; use --output OTHER")
        if path == folder or folder not in path.parents:
            return
        parts = path.relative_to(folder).parts
        for end in range(1, len(parts) + 1):
            if any(fnmatchcase("/".join(parts[:end]), own.rstrip("/")) for own in (*self.owns, RUN, LOCK)):
                raise InputError(f"{name}: {given} is what this run itself writes; use --output OTHER")

    def _tidy(self) -> None:
        """Remove what a killed process left unfinished."""
        folders = {pattern.rstrip("/") for pattern in self.owns if pattern.endswith("/")}
        for parent in {Path(pattern).parent.as_posix() for pattern in self.owns} | folders | {"."}:
            for name in UNFINISHED:
                for path in self.path.glob(f"{parent}/*{name}*" if parent != "." else f"*{name}*"):
                    _remove(path)

    def is_lost(self) -> bool:
        """Whether the folder was removed or replaced after it was claimed."""
        if self._handle is None:
            return False
        try:
            return not os.path.samestat(os.stat(self.path / LOCK), os.fstat(self._handle))
        except OSError:
            return True

    def check(self) -> None:
        """Raise InputError where the folder was removed or replaced while the run was at work."""
        if self.is_lost():
            raise InputError(
                f"output: {self.path} was removed or replaced while the command ran; the same command makes it again"
            )

    def take(self) -> None:
        """Lock it; InputError where another process has it or it cannot be written."""
        try:
            self._new = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._handle = self._lock(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise InputError(f"output: {self.path}: cannot be written: {error.strerror}") from None
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        text = f"process {os.getpid()} on {socket.gethostname()} since {now}, {self.command}"
        with contextlib.suppress(OSError):  # the lock holds without it
            os.ftruncate(self._handle, 0)
            os.write(self._handle, text.encode())

    def _lock(self, handle: int) -> int | None:
        """The handle of the locked file; None where that file was removed meanwhile by who had it."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 300).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise InputError(
                f"output: {self.path}: another run is at work there ({shown(holder, 200)}); wait for it, or use "
                "--output OTHER"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                os.close(handle)
                raise
            print(f"note: {self.path}: no locks on this file system; start one command at a time there")
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self.path / LOCK), os.fstat(handle)):
                return handle
        os.close(handle)
        return None

    def release(self, failed: bool) -> None:
        """Give the folder back; one that a failed run made and wrote nothing into is removed."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            if failed and self._adopted:  # whose it is was not settled
                (self.path / RUN).unlink(missing_ok=True)
            if not self.is_lost():
                (self.path / LOCK).unlink()
            if failed and self._new:
                self.path.rmdir()  # which an empty folder alone lets happen
        os.close(self._handle)
        self._handle = None


@contextlib.contextmanager
def claim(path: str | Path, command: str, owns: tuple[str, ...] = ()) -> Iterator[RunFolder]:
    """Take an output folder, first of all, for as long as the run is at work; in a job process 0 has the lock.

    `owns` are patterns, relative to the folder, of every file and, with a / at the end, folder that the run makes.

    Raises InputError where another process has the folder, it cannot be written, or it was removed meanwhile.
    """
    refuse_address("output", path)
    folder, failed = RunFolder(Path(path), command, owns), True
    if is_first():
        folder.take()
    try:
        yield folder
        folder.check()
        failed = False
    except (OSError, InputError):  # what reading and writing raise; a folder that is gone is why they did
        folder.check()
        raise
    finally:
        folder.release(failed)


def _is_sealed(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        read_sealed(path)
    except (Damaged, OSError):
        return False
    return True


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """A sealed JSON file, whole or not there; InputError where it cannot be written."""
    write_text(path, sealed(value))


def write_text(path: Path, text: str) -> None:
    """A text file (UTF-8), whole or not there; InputError where the disk is full or the folder cannot be written."""
    content = text.encode(errors="backslashreplace")
    temporary = path.with_name(f"{path.name}.{TEMPORARY}")
    try:
        with writing(path, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            put(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_own(folder: Path) -> None:
    """Remove from a run's folder what its sealed list names; files of others stay, also in its subfolders.

    Of folders only checkpoints, runs, unfinished and empty ones go.
    """
    run = read_sealed(folder / RUN)
    for pattern in run["owns"]:
        for path in list(folder.glob(pattern)):
            if not path.is_symlink():  # which no run makes
                _remove(path)
            with contextlib.suppress(OSError):
                if path.parent != folder:
                    path.parent.rmdir()
    (folder / RUN).unlink()


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif (path / CHECKPOINT).is_file() or any(name in path.name for name in UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, Damaged):
            remove_own(path)
        with contextlib.suppress(OSError):
            path.rmdir()


_STEP = re.compile(r"\d{8}")


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"{step:08d}"


def saved_steps(folder: str | Path) -> list[int]:
    """Steps with a complete checkpoint, ascending; saves that never finished do not count."""
    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return sorted(int(p.name) for p in paths if _STEP.fullmatch(p.name) and (p / CHECKPOINT).is_file())


def save_step(folder: str | Path, step: int, tree: Any, manifest: Mapping[str, Any], keep: int = 2) -> None:
    """Write a step's checkpoint, then remove all but the newest `keep` and what killed saves left behind.

    The old ones go only after the new one is whole, so there is a complete checkpoint at every moment.
    In a job of several processes this is the business of the one that calls it.
    Raises InputError where the folder cannot be written.
    """
    checkpoint.save(checkpoint_path(folder, step), tree, manifest)
    _remove_old(folder, keep)


def save_step_together(folder: str | Path, step: int, tree: Any, manifest: Mapping[str, Any], keep: int = 2) -> None:
    """`save_step` by all processes of a job, together; `tree` holds JAX arrays that lie on all of them."""
    if jax.process_count() == 1:
        return save_step(folder, step, tree, manifest, keep)
    checkpoint.save_together(checkpoint_path(folder, step), tree, manifest)
    once(lambda: _remove_old(folder, keep))


def _remove_old(folder: str | Path, keep: int) -> None:
    newest = {checkpoint_path(folder, s).name for s in saved_steps(folder)[-keep:]}
    for path in Path(folder).iterdir():
        is_own = _STEP.fullmatch(path.name) or any(name in path.name for name in UNFINISHED)
        if is_own and path.name not in newest:  # a copy under another name is the user's
            shutil.rmtree(path, ignore_errors=True)


def load_newest(folder: str | Path, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Tree and manifest of the newest checkpoint, or None where there is none.

    Raises InputError like `checkpoint.load`, naming the folder: other settings or other data (with the difference),
    flipped bytes, truncated files. An older checkpoint is never taken silently in its place.
    """
    steps = saved_steps(folder)
    return _load_newest(folder, steps[-1], like, manifest) if steps else None


def load_newest_together(
    folder: str | Path, like: Any, manifest: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """`load_newest` by all processes of a job: the newest checkpoint that process 0 sees, in every one of them.

    A listing of a shared folder may be a moment old; processes that go on from different steps would mix their batches.
    """
    newest = int(agree(np.int32(max(saved_steps(folder), default=-1))))
    return None if newest < 0 else _load_newest(folder, newest, like, manifest)


def _load_newest(folder: str | Path, step: int, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        return load_step(folder, step, like, manifest)
    except Damaged as error:
        older = [each for each in saved_steps(folder) if each < step]
        where = f"from step {older[-1]:,}" if older else "from the start"
        raise Damaged(f"{error}; remove that folder, and run the same command again to continue {where}") from None


def load_step(folder: str | Path, step: int, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Tree and manifest of one step's checkpoint; raises InputError like `checkpoint.load`, also where it is absent."""
    path = checkpoint_path(folder, step)
    if (found := checkpoint.load_complete(path, like, manifest)) is None:
        raise InputError(f"{path}: process {jax.process_index()} does not see this checkpoint")
    return found
