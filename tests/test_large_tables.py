"""Large tables: 100,000 sequences read, grouped and split within bounds of time and memory; early refusal."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

GROUPING = """
import resource, sys, time
from covjax.data import assign_splits, read_table
begin = time.perf_counter()
data = read_table(sys.argv[1])
read = time.perf_counter()
split = assign_splits(data)
end = time.perf_counter()
mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(len(split), len(set(split.groups)), mib, read - begin, end - read, time.process_time())
"""


def write(path, letters, count, copies, rng):
    """`count` sequences of 300 letters, each with `copies` − 1 more that differ by 3 %, and one of 2,000,000."""
    alphabet = np.frombuffer(letters.encode(), np.uint8)
    with open(path, "w") as file:
        file.write("sequence,label\n")
        for i in range(count // copies):
            parent = rng.integers(0, len(alphabet), 300)
            for j in range(copies):
                changed = (rng.random(300) < 0.03) & (j > 0)
                own = np.where(changed, rng.integers(0, len(alphabet), 300), parent)
                file.write(f"{alphabet[own].tobytes().decode()},{'ab'[i % 2]}\n")
        file.write(f"{alphabet[rng.integers(0, len(alphabet), 2_000_000)].tobytes().decode()},a\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("letters", "copies"), [("ACDEFGHIKLMNPQRSTVWY", 1), ("ACDEFGHIKLMNPQRSTVWY", 10), ("ACGT", 1), ("ACGT", 100)]
)
def test_100_000_sequences_and_one_of_two_million_letters(tmp_path, letters, copies):
    write(tmp_path / "t.csv", letters, 100_000, copies, np.random.default_rng(0))
    command = [sys.executable, "-c", GROUPING, str(tmp_path / "t.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, groups, mib, read, split, cpu = map(float, done.stdout.split())
    print(f"{letters} × {copies}: read {read:.0f} s, group and split {split:.0f} s, {cpu:.0f} s CPU, {mib:.0f} MiB")
    assert (rows, groups) == (100_001, 100_000 / copies + 1)
    assert mib <= 1536
    assert read + split <= 300  # 90 on two idle cores; a shared machine takes longer


@pytest.mark.long
def test_one_sequence_over_max_length_is_refused_at_once(tmp_path):
    """Before anything takes the number of sequences times the longest one's length, 15 GiB here."""
    write(tmp_path / "t.csv", "ACDEFGHIKLMNPQRSTVWY", 2000, 1, np.random.default_rng(0))
    script = (
        "import resource, sys; import covjax.comparison.compare; from eval import compare\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: compare.main(sys.argv[1:])\n"
        "finally: print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)"
    )
    command = [sys.executable, "-c", script, "--data", str(tmp_path / "t.csv"), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "t.csv: line 2002 (row2002): 2,000,000 letters, more than max_length 2000" in done.stderr.splitlines()[-1]
    assert float(done.stdout.split()[-1]) < 200  # MiB beyond the imports
