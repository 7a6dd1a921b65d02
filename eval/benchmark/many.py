"""A whole comparison of many short sequences under a limit of memory: which solver it takes, time and peak memory.

`python -m eval.benchmark many --sequences 10000 --features 96` writes a table and random tokens in half precision,
whose covariance says the label, and runs `covjax compare` on them in a process of its own. It prints what that planned,
its warnings, the seconds by the clock and of all cores, and the largest memory of the process.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from covjax.errors import InputError

ROWS = "mean,covariance,log_covariance,mean+log_covariance"


def write_data(folder: Path, sequences: int, tokens: int, features: int) -> None:
    """`table.csv` of a number a sequence, and `tokens.npz`, two of whose features go together as the number says."""
    random = np.random.default_rng(0)
    numbers = random.uniform(-0.9, 0.9, sequences)
    arrays: dict[str, Any] = {}
    for i, number in enumerate(numbers):
        x = random.standard_normal((tokens, features), np.float32)
        x[:, 1] = number * x[:, 0] + np.sqrt(1 - number**2) * x[:, 1]
        arrays[f"s{i}"] = x.astype(np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "tokens.npz", **arrays)
    lines = [f"s{i},{number:.4f},g{i}" for i, number in enumerate(numbers)]
    (folder / "table.csv").write_text("\n".join(["id,label,group", *lines]) + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    """Write the data, compare, and print what that took."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark many", description=__doc__)
    parser.add_argument("--sequences", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=64, help="of a token")
    parser.add_argument("--tokens", type=int, default=30, help="of a sequence")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="limit of memory")
    parser.add_argument("--solver", default="auto", help="of covjax compare")
    parser.add_argument("--landmarks", default="none", help="of covjax compare")
    parser.add_argument("--rows", default=ROWS, help="of covjax compare")
    parser.add_argument("--output", type=Path, default=Path("runs/many"), help="folder of data and run")
    options = parser.parse_args(argv)
    folder = options.output / f"{options.sequences}-{options.tokens}-{options.features}"
    if not (folder / "table.csv").is_file():
        write_data(folder, options.sequences, options.tokens, options.features)
    run = folder / f"{options.solver}-{options.landmarks}-{options.memory_gib:g}"
    command = [sys.executable, "-m", "covjax", "compare", str(folder / "table.csv"), "--task", "regression"]
    command += ["--activations", str(folder / "tokens.npz"), "--group-column", "group", "--probes", "ridge"]
    command += ["--rows", options.rows, "--solver", options.solver, "--landmarks", options.landmarks]
    command += ["--max-memory-gib", str(options.memory_gib), "--output", str(run), "--force"]
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True)
    clock, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise InputError(f"many: {' '.join(command)} failed: {process.stderr.strip()[-2000:]}")
    for line in re.findall(r"^(?:plan|warning|\S+: \d+ steps).*", process.stdout + process.stderr, re.M):
        print(line)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for row in results["rows"]:
        print(f"{row['label']}: R² {row['probes']['ridge']['test']['r2']['value']:.3f}, {row.get('solver', 'exact')}")
    print(
        f"{options.sequences:,} sequences, {options.tokens} tokens, {options.features} features: {clock:.0f} s by the "
        f"clock, {used.ru_utime + used.ru_stime:.0f} s of all cores, peak {used.ru_maxrss / 2**20:.2f} GiB"
    )
    return 0
