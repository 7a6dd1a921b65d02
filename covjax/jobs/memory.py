"""How much memory the machine has, and this process takes."""

import ctypes
import os
import resource
import sys
from pathlib import Path

_SHARE = 0.6  # of the machine's memory that a run takes by default
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def machine_bytes() -> int:
    """Memory of the machine, or of the container where that has less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _LIMITS:
        try:
            sizes.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(sizes)


def limit_gib(given: float | None) -> float:
    """The memory in GiB that a run may take: what is given, or a share of the machine's."""
    return _SHARE * machine_bytes() / 2**30 if given is None else given


def process_bytes() -> int:
    """Memory that this process takes now; its largest so far where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trim() -> None:
    """Give back to the system what the allocator keeps of freed memory, where it can be told to (glibc)."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
