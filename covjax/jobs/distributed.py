"""One job of several processes: who is who, who does what, how it ends. The work itself is JAX's own."""

import contextlib
import hashlib
import itertools
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int, Shaped

from covjax.errors import InputError
from covjax.jobs.compiled import store_compiled_programs
from covjax.jobs.disk import error_text
from covjax.jobs.parser import FORM

# A lost process is noticed after this silence. Heartbeats come from a thread of their own, which no computation holds
# up; the margin is for networks and for machines that swap.
HEARTBEAT_SECONDS = 30
# Nodes of one job may boot minutes apart.
START_SECONDS = 300
# How long one process may work while the others wait: a lost one is noticed by its heartbeats, not by this.
LONGEST_SECONDS = 7 * 24 * 3600
PIECE = 1 << 26  # bytes of all processes that travel at a time, through the memory of each one's devices
_waits = itertools.count()


def start(setting: str, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> None:
    """Join the job that `setting` describes, before anything else has used JAX's devices; nothing for "".

    From then on every line this process prints begins with its number and the number of all, as in "[1/4] "; the
    first is 0.

    Args:
        setting: "auto" takes the coordinator, the number of processes and this one's index from the cluster that
            started them (`jax.distributed.initialize` knows SLURM, GKE, Cloud TPU and Open MPI);
            "HOST:PORT,COUNT,INDEX" gives them, HOST:PORT being a free port of process 0's machine.
        heartbeat_seconds: silence after which a process counts as lost and the others end.

    Raises:
        InputError: another form, an index that is not one of 0 … COUNT − 1, "auto" outside of a cluster.
    """
    if not setting:
        return
    # Else a SIGTERM, which clusters send to end a job, is only noted and the process goes on.
    jax.config.update("jax_enable_preemption_service", False)
    address, count, index = (None, None, None) if setting == "auto" else parse_setting(setting)
    try:
        jax.distributed.initialize(
            address, count, index, initialization_timeout=START_SECONDS, heartbeat_timeout_seconds=heartbeat_seconds
        )
    except ValueError as error:
        raise InputError(f"distributed: {setting!r}: no cluster found ({error}); expected {FORM}") from None
    # While all are here: the first transfer connects every two processes, for which they have half a minute.
    multihost_utils.sync_global_devices("start")
    prefix = f"[{jax.process_index()}/{jax.process_count()}] "
    sys.stdout, sys.stderr = _Prefixed(sys.stdout, prefix), _Prefixed(sys.stderr, prefix)  # type: ignore[assignment]


def parse_setting(setting: str) -> tuple[str, int, int]:
    """(coordinator's address, number of processes, this one's index) of "HOST:PORT,COUNT,INDEX", else InputError."""
    found = re.fullmatch(r"([^\s,]+:(\d{1,5})),(\d+),(\d+)", setting)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise InputError(f"distributed: {setting!r} is not allowed; expected {FORM}")
    count, index = int(found[3]), int(found[4])
    if index >= count:
        raise InputError(f"distributed: {setting!r}: INDEX {index} is not in 0 … {count - 1} (COUNT − 1)")
    return found[1], count, index


@contextlib.contextmanager
def job(command: str, setting: str, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> Iterator[None]:
    """`start`, the body, and an end in step: the processes of a job end together, well or not.

    Compiled programs are stored on disk (`covjax.jobs.compiled`).

    An error in the body of one process ends that process at once, with status 2 for an InputError and 1 for any other;
    the others are told by the coordination service, which names it, within about `heartbeat_seconds`, and end too.
    """
    store_compiled_programs()
    start(setting, heartbeat_seconds)
    if not setting:
        yield
        return
    try:
        yield
        wait()  # some have more to do than others
    except KeyboardInterrupt:
        raise  # a signal; `covjax.jobs.stop` ends the process
    except BaseException as error:
        text = error_text(error)
        if text is not None:
            print(f"{command}: error: {text}", file=sys.stderr)
        else:
            traceback.print_exc()
        if isinstance(error, Exception) and text is None:
            # It may be a transfer to a process that died, which fails at once; the service takes a moment to say which.
            time.sleep(heartbeat_seconds + 5)
        sys.stdout.flush()
        sys.stderr.flush()
        # Python's way out waits for the other processes, which wait for this one.
        os._exit(1 if text is None else 2)
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this process writes what a job writes once: reports, logs, figures. True where there is only one."""
    return jax.process_index() == 0


def once(action: Callable[[], Any]) -> None:
    """Process 0 does it, and no process goes on before it is done; all must call it together."""
    if is_first():
        action()
    wait()


def wait() -> None:
    """Wait for all processes, as long as it takes; all must call it together.

    At the coordination service, which has no part in computations: a process that waits inside a transfer between
    devices, as `multihost_utils.sync_global_devices` makes it, fails after that transfer's timeout of half an hour.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # which has JAX's client of that service

        barrier = multihost.get_barrier_sync_fn()
        barrier(key=f"covjax-{next(_waits)}", timeout_ms=1000 * LONGEST_SECONDS)


def share(count: int) -> range:
    """The items of 0 … count − 1 that are this process's: each is one process's, also where processes outnumber them.

    Every `process_count`-th one, so that items sorted by size are shared out fairly.
    """
    return range(jax.process_index(), count, jax.process_count())


def agree(value: Any) -> Any:
    """Process 0's arrays (a pytree of equal shapes and types in all processes), in every process, bit for bit.

    All must call it together. Sent as bytes: JAX itself would send float64 as float32.
    """
    if jax.process_count() == 1:
        return value
    wait()  # the transfers below begin within moments of each other, however late a process comes

    def send(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        own = np.frombuffer(array.tobytes(), np.uint8)
        return np.frombuffer(np.asarray(_from_first(own)).tobytes(), array.dtype).reshape(array.shape)

    return jax.tree.map(send, value)


def _from_first(own: np.ndarray) -> np.ndarray:
    parts = [own[i : i + PIECE] for i in range(0, len(own), PIECE)]
    return np.concatenate([np.asarray(multihost_utils.broadcast_one_to_all(p)) for p in parts]) if parts else own


def gather(array: Shaped[np.ndarray, "rows *shape"]) -> Shaped[np.ndarray, "all_rows *shape"]:
    """The processes' arrays end to end, in every process, bit for bit; numbers of rows may differ, also be 0.

    All must call it together, with arrays of one type and equal shapes behind the first axis.
    """
    array = np.ascontiguousarray(array)
    if jax.process_count() == 1:
        return array
    wait()
    counts = np.asarray(multihost_utils.process_allgather(np.int32(len(array)))).reshape(-1)
    whole = np.empty((int(counts.sum()), *array.shape[1:]), array.dtype)
    width = array.dtype.itemsize * math.prod(array.shape[1:])
    own, out = (a.reshape(-1).view(np.uint8).reshape(len(a), width) for a in (array, whole))
    begins = np.cumsum(counts) - counts
    step = max(1, PIECE // max(width * len(counts), 1))
    for first in range(0, int(counts.max()), step):
        size = min(step, int(counts.max()) - first)
        piece = own[first : first + size]
        pieces = np.asarray(multihost_utils.process_allgather(np.pad(piece, ((0, size - len(piece)), (0, 0)))))
        for begin, count, other in zip(begins, counts, pieces):
            held = max(0, min(size, int(count) - first))
            out[begin + first : begin + first + held] = other[:held]
    return whole


def exchange(table: Shaped[np.ndarray, "all_rows *shape"], own: Int[np.ndarray, "rows"]) -> None:
    """Fill in the rows of the other processes, in place; `own` are this one's. All must call it together."""
    if jax.process_count() > 1:
        table[gather(own)] = gather(table[own])


def same(what: str, text: str) -> None:
    """Raise InputError in a process whose `text` is not that of process 0; all must call it together."""
    own = hashlib.sha256(text.encode()).digest()
    if agree(np.frombuffer(own, np.uint8)).tobytes() != own:
        raise InputError(f"{what}: process {jax.process_index()} has another one than process 0")


def check_folder(folder: Path) -> None:
    """Raise InputError in a process that does not see the folder of process 0; all must call it together."""
    if jax.process_count() == 1:
        return
    token = agree(np.frombuffer(os.urandom(16), np.uint8)).tobytes()
    marker = folder / ".seen-by-all"
    once(lambda: marker.write_bytes(token))
    if not marker.is_file() or marker.read_bytes() != token:
        raise InputError(
            f"output: process {jax.process_index()} does not see {folder} of process 0; all need one folder"
        )
    wait()
    once(lambda: marker.unlink(missing_ok=True))


class _Prefixed:
    """A stream whose lines begin with a prefix; everything but writing is the stream's own."""

    def __init__(self, stream: IO[str], prefix: str):
        self._stream, self.prefix, self._fresh = stream, prefix, True

    def write(self, text: str) -> int:
        """As of the stream; one piece a call, so that lines of processes that share a terminal stay whole."""
        lines = text.splitlines(keepends=True)
        heads = [self.prefix if self._fresh else "", *[self.prefix] * (len(lines) - 1)]
        if lines:
            self._fresh = lines[-1].endswith("\n")
        self._stream.write("".join(head + line for head, line in zip(heads, lines)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
