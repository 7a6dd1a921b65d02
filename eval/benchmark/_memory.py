"""Transient memory: by the compiler's account for one compiled call, by the process's peak for streaming."""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from covjax import chunked_projected_moment, projected_moment

TOKENS, FEATURES, CHUNK = 1_048_576, 1536, 16_384

# ru_maxrss would start at the parent's peak: the high-water mark of the address space does not.
_STREAM = """
import re, sys, time
import jax, ml_dtypes, numpy as np
from covjax import streaming_moments
path, tokens, features, chunk = sys.argv[1], *map(int, sys.argv[2:])
jax.block_until_ready(jax.numpy.ones(3) + 1)
def mebibytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before, start = mebibytes("VmRSS"), time.perf_counter()
def chunks():
    with open(path, "rb") as file:
        for _ in range(0, tokens, chunk):
            yield np.fromfile(file, ml_dtypes.bfloat16, chunk * features).reshape(-1, features)
m = streaming_moments(chunks())
assert m.count == tokens
print(mebibytes("VmHWM") - before, time.perf_counter() - start)
"""


def measure(streaming: bool) -> dict[str, str]:
    """What was measured → how much."""
    b, t, d, r = 4, 8192, 1536, 64
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((b, t, d), (d, r), (d, r), (b, t))]
    result = {}
    for name, function in (("flat", projected_moment), ("chunked", chunked_projected_moment)):
        compiled = jax.jit(jax.vmap(function, in_axes=(0, None, None, 0))).lower(*shapes).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None, "the backend gives no account of memory"
        size = analysis.temp_size_in_bytes / 2**20
        result[f"projected moment f32, {name}, (4, 8192, 1536, 64), beyond its input (target 64 MiB)"] = (
            f"{size:.0f} MiB"
        )
    if streaming:
        mebibytes, seconds = _stream()
        name = f"`streaming_moments`, {TOKENS:,} × {FEATURES:,} bf16 from disk, peak above start (target 1,024 MiB)"
        result[name] = f"{mebibytes:.0f} MiB ({seconds:.0f} s)"
    return result


def _stream() -> tuple[float, float]:
    """Peak resident memory above that at the start, in MiB, and seconds, in a process of its own."""
    import ml_dtypes
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bf16"
        block = np.random.default_rng(0).standard_normal((CHUNK, FEATURES), np.float32).astype(ml_dtypes.bfloat16)
        with path.open("wb") as file:
            for _ in range(TOKENS // CHUNK):
                block.tofile(file)
        command = [sys.executable, "-c", _STREAM, str(path), str(TOKENS), str(FEATURES), str(CHUNK)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[0]), float(output[1])
