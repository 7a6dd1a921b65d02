"""Extraction by several processes: the bytes of one process, also after one of them was killed."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from covjax.data.store import load_features, shard_path, token_path
from covjax.jobs import checkpoint
from tests.processes import finish, launch, start

SHARDS = 7


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The input and the output of one process."""
    folder = tmp_path_factory.mktemp("one")
    rng = np.random.default_rng(1)
    sequences = ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(2, 60, 25)]
    data = folder / "x.fasta"
    data.write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)))
    launch(["extraction", str(data), str(folder / "out")])
    return data, folder / "out"


def _assert_same(folder: Path, expected: Path) -> None:
    for name in ("-1/mean", "-1/covariance"):
        np.testing.assert_array_equal(load_features(folder, name), load_features(expected, name))
    for shard in range(SHARDS):
        assert token_path(folder, shard).read_bytes() == token_path(expected, shard).read_bytes()
        first, second = (checkpoint.read_manifest(shard_path(path, shard)) for path in (folder, expected))
        assert first is not None
        assert first == second  # digests of all features and rows


@pytest.mark.long
def test_several_processes_write_what_one_writes(one, tmp_path):
    """7 shards over 2 processes; then one shard is missing, for more processes than shards."""
    data, expected = one
    again = ["extraction", str(data), str(tmp_path / "out")]
    outputs = launch([*again, "+", "lose", str(tmp_path / "out"), "3", "+", *again], processes=2)
    _assert_same(tmp_path / "out", expected)
    assert [output.count("25 sequences in") for output in outputs] == [2, 0]
    assert "[0/2] 25 sequences in" in outputs[0]
    assert all("shards: 0 of 7 complete" in output for output in outputs)
    assert all("shards: 6 of 7 complete" in output for output in outputs)


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_job_resumes(one, tmp_path):
    data, expected = one
    arguments = ["extraction", str(data), str(tmp_path / "out"), "0.3"]
    started = start(arguments, processes=2)
    while not checkpoint_of(tmp_path / "out", 1) and all(process.poll() is None for process in started):
        time.sleep(0.02)
    started[1].send_signal(
        signal.SIGTERM
    )  # as clusters end a process; covjax.training.autoencoder's test sends SIGKILL
    killed = time.monotonic()
    done = finish(started)
    assert time.monotonic() - killed < 60  # 10 s of silence, and what the other had still to do
    assert done[1][0] == 128 + signal.SIGTERM
    assert done[1][2].splitlines()[-1].startswith("[1/2] ")
    assert done[1][2].endswith(": stopped; run the same command again to continue\n")
    assert done[0][0] not in (0, 2)
    assert "stopped sending heartbeats):\n1\n" in done[0][2]
    missing = [shard for shard in range(SHARDS) if not checkpoint_of(tmp_path / "out", shard)]
    assert missing
    launch(arguments[:-1], processes=2)
    _assert_same(tmp_path / "out", expected)


def checkpoint_of(folder: Path, shard: int) -> bool:
    return (shard_path(folder, shard) / "_CHECKPOINT_METADATA").is_file()
