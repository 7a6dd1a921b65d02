"""Peak memory of loading a sharded folder over its size: python -m tests.encoders.loading_memory FOLDER MEGABYTES.

The folder is written by one process and loaded by another. Linux alone: VmHWM belongs to one program, whereas
getrusage's ru_maxrss also counts what the process that started it held.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

D = 1024
BLOCK_BYTES = 12 * D * D * 4  # four D x D matrices and two D x 4D


def write(folder: Path, megabytes: int) -> None:
    import numpy as np

    from tests.encoders.folders import write_bert

    write_bert(folder, np.random.default_rng(0), d=D, blocks=max(1, megabytes * 10**6 // BLOCK_BYTES), shards=4)


def high_water() -> int:
    """Largest resident memory of this program so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def peak_over_size(folder: Path) -> float:
    import numpy as np

    from covjax import encoders
    from tests.encoders.folders import write_bert

    with tempfile.TemporaryDirectory() as small:  # modules and compiled code are no part of the weights
        write_bert(Path(small), np.random.default_rng(0))
        encoders.load(small)
    before = high_water()
    encoder = encoders.load(str(folder))
    grown = high_water() - before
    del encoder
    return grown / sum(file.stat().st_size for file in folder.glob("*.safetensors"))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if len(sys.argv) > 2:
        write(target, int(sys.argv[2]))
        subprocess.run([sys.executable, "-m", "tests.encoders.loading_memory", str(target)], check=True)
    else:
        print(f"peak over file size: {peak_over_size(target):.3f}")
