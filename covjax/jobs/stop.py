"""Ctrl-C and SIGTERM: one line, the status that shells expect, within seconds whatever the process is doing.

Whatever a run keeps is whole or not there, so that a process may end at any moment. Unwinding only tidies up; it gets a
few seconds, since a save or a compilation may not come back to Python in time.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 3.0


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end; raised in the main thread."""

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number


_saying = threading.Lock()
_said = False


@contextlib.contextmanager
def stoppable(command: str) -> Iterator[None]:
    """Within it SIGINT and SIGTERM end the process with "COMMAND: stopped; …" on stderr and status 130 or 143.

    Only in the main thread, which alone gets signals; elsewhere nothing changes. A KeyboardInterrupt that no signal
    brought becomes the same line and `SystemExit(130)`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # Signals reach this thread also while the main thread is inside a library that does not come back.
    watcher = threading.Thread(target=_watch, args=(read, command), name="stop", daemon=True)
    watcher.start()
    try:
        yield
    except Stopped as stopped:
        _say(command)
        _end(stopped.number)
    except KeyboardInterrupt:
        print(_line(command), file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        watcher.join()


def stop_while_importing() -> None:
    """For `python -m PACKAGE.MODULE`, whose imports take seconds: a signal meanwhile ends it as in `stoppable`.

    Nothing happens in a process that was started in another way.
    """
    # While Python looks for the module of "-m", and imports its packages, this stands in the place of its path.
    if sys.argv[:1] != ["-m"] or threading.current_thread() is not threading.main_thread():
        return
    module = next((name for flag, name in zip(sys.orig_argv, sys.orig_argv[1:]) if flag == "-m"), "")
    if not module.startswith(("covjax", "train", "eval")):
        return

    def end(number: int, frame: FrameType | None) -> None:
        _say(f"python -m {module}")
        _end(number)

    for number in SIGNALS:
        signal.signal(number, end)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:  # a second one must not interrupt the tidying up
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _watch(read: int, command: str) -> None:
    numbers = os.read(read, 1)
    os.close(read)
    if not numbers or numbers[0] not in SIGNALS:
        return
    _say(command)
    time.sleep(GRACE_SECONDS)
    _end(numbers[0])


def _line(command: str) -> str:
    return f"{command}: stopped; run the same command again to continue"


def _say(command: str) -> None:
    """The line, then nothing more on stderr: threads that lose their work complain at length."""
    global _said
    with _saying:
        if _said:
            return
        _said = True
        bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
        start = "\n" if len(bars) else ""  # a progress bar has the line
        prefix = getattr(sys.stderr, "prefix", "")
        with contextlib.suppress(OSError):
            os.write(2, f"{start}{prefix}{_line(command)}\n".encode(errors="replace"))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _end(number: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(128 + number)  # Python's own way out waits for threads
