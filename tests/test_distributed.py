"""The settings of a job, its lines, who does what, and how it ends when a process does."""

import sys

import pytest

from covjax import InputError
from covjax.jobs import distributed
from tests.processes import finish, start


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("yes", "distributed: 'yes' is not allowed; expected auto"),
        ("host,2,0", "is not allowed"),
        ("host:0,2,0", "is not allowed"),
        ("host:99999,2,0", "is not allowed"),
        ("host:1234,2", "is not allowed"),
        ("host:1234,2,-1", "is not allowed"),
        ("host:1234,2,2", r"INDEX 2 is not in 0 … 1 \(COUNT − 1\)"),
        ("host:1234,0,0", "INDEX 0 is not in 0 … -1"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(InputError, match=message):
        distributed.start(setting)


def test_a_good_setting_is_read():
    assert distributed.parse_setting("10.0.0.7:1234,4,3") == ("10.0.0.7:1234", 4, 3)
    assert distributed.parse_setting("[::1]:1234,1,0") == ("[::1]:1234", 1, 0)


def test_every_line_begins_with_the_process(tmp_path):
    with open(tmp_path / "out", "w", encoding="utf-8") as stream:
        prefixed = distributed._Prefixed(stream, "[1/4] ")
        print("a", "b", file=prefixed)
        print("two\nlines", end="", file=prefixed)
        print(" more\n", file=prefixed)
        assert prefixed.name == stream.name
    assert (tmp_path / "out").read_text(encoding="utf-8") == "[1/4] a b\n[1/4] two\n[1/4] lines more\n[1/4] \n"
    assert not hasattr(sys.stdout, "_prefix")


def slurm(port: int, index: int) -> dict[str, str]:
    """JAX takes port 61440 + job % 4096 of the first node."""
    names = {"SLURM_JOB_ID": port, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": 2, "SLURM_STEP_NUM_NODES": 1}
    return {name: str(value) for name, value in (names | {"SLURM_PROCID": index, "SLURM_LOCALID": index}).items()}


def open_mpi(port: int, index: int) -> dict[str, str]:
    """JAX takes the port from the job in the launcher's address."""
    world = {"OMPI_COMM_WORLD_SIZE": 2, "OMPI_COMM_WORLD_RANK": index, "OMPI_COMM_WORLD_LOCAL_RANK": index}
    return {"OMPI_MCA_orte_hnp_uri": f"{port * 4096}.0;tcp://127.0.0.1:1"} | {k: str(v) for k, v in world.items()}


@pytest.mark.long
@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_auto_reads_what_a_cluster_tells_and_items_are_shared_out_whole(cluster):
    """5 items over 2 processes, 1 over both: nothing lost, nothing twice; the quick one waits for the slow one."""
    done = finish(start(["shares", "5", "1", "0"], processes=2, cluster=cluster))
    for index, (status, output, errors) in enumerate(done):
        assert status == 0, errors
        lines = [line for line in output.splitlines() if "Gloo" not in line]
        assert lines == [f"[{index}/2] {[[0, 2, 4], [1, 3]][index]} {[[0], []][index]} []"]


@pytest.mark.long
def test_a_job_with_an_error_in_one_process_ends_loudly_in_all():
    done = finish(start(["faulty", "1"], processes=2))
    assert done[1][0] == 2
    assert "[1/2] worker: error: faulty: process 1" in done[1][2]
    assert done[0][0] not in (0, 2)
    assert "stopped sending heartbeats):\n1\n" in done[0][2]  # the coordination service names who is lost


@pytest.mark.long
def test_a_process_may_work_alone_for_longer_than_a_transfer_may_take():
    """Half a minute and half an hour are JAX's limits for transfers; here they are two seconds."""
    done = finish(start(["late", "5"], processes=2, flags="--xla_cpu_collective_timeout_seconds=2"))
    for _, output, errors in done:
        assert "agreed True True True float64 int64" in output, errors
        assert "gathered True" in output
    assert done[1][0] == 0
    assert "text: process 1 has another one than process 0" in done[1][1]


def test_auto_outside_of_a_cluster_is_refused():
    ((status, _, errors),) = finish(start(["shares", "1"], setting="auto"))
    assert status == 2
    assert "distributed: 'auto': no cluster found" in errors
