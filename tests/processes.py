"""Real processes of one job over loopback: `launch` starts `python -m tests.distributed_worker` several times."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

from tests.conftest import ROOT


def start(
    arguments: list[str],
    processes: int = 1,
    devices: int = 1,
    setting: str = "",
    flags: str = "",
    cluster: Callable[[int, int], dict[str, str]] | None = None,
) -> list[subprocess.Popen]:
    """The processes of one job, each with `devices` virtual CPU devices; their setting comes before `arguments`.

    One process alone gets `setting`. `flags` are XLA's, beside those of this process. `cluster(port, index)` is the
    environment in which a cluster starts a process; its setting is then "auto".
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags += f" --xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    settings = [f"127.0.0.1:{port},{processes},{i}" for i in range(processes)] if processes > 1 else [setting]
    environments = [environment] * len(settings)
    if cluster is not None:
        settings = ["auto"] * processes
        environments = [environment | cluster(port, i) for i in range(processes)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed_worker", setting, *arguments],
            cwd=ROOT,
            env=each,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for setting, each in zip(settings, environments)
    ]


def finish(started: list[subprocess.Popen], timeout: float = 500) -> list[tuple[int, str, str]]:
    """(status, standard output, standard error) of every process."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return [(process.returncode, *output) for process, output in zip(started, outputs)]


def launch(arguments: list[str], processes: int = 1, devices: int = 1) -> list[str]:
    """Standard outputs of a job whose processes must all succeed."""
    done = finish(start(arguments, processes, devices))
    assert all(status == 0 for status, *_ in done), "\n".join(errors[-3000:] for *_, errors in done)
    return [output for _, output, _ in done]
