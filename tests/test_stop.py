"""Signals and full disks end a command with one line and leave a folder that the same command goes on from."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from covjax.jobs import stop
from covjax.jobs.cli import exit_on_input_error
from covjax.jobs.folder import saved_steps
from tests.conftest import ROOT
from tests.jobs_worker import write_inputs

STUCK = """
import sys, threading, time
from covjax.jobs.cli import exit_on_input_error
from covjax.jobs import stop
stop.GRACE_SECONDS = 0.5
with exit_on_input_error("cmd"):
    print("in", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            time.sleep(0.3)  # the line comes from another thread, which needs a moment
            threading.Thread(target=lambda: 1 / 0).start()  # complains at length
            print("noise", file=sys.stderr)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_swallows_the_signal_ends_all_the_same_with_one_line(number, status):
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert errors == "cmd: stopped; run the same command again to continue\n"


def test_a_signal_during_the_imports_ends_a_command_with_one_line():
    command = [sys.executable, "-X", "importtime", "-m", "eval.compare", "--data", "none.csv"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while " jax._src" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "python -m eval.compare: stopped; run the same command again to continue"


def test_a_keyboard_interrupt_without_a_signal_and_handlers_that_come_back(capsys):
    before = [signal.getsignal(number) for number in stop.SIGNALS]
    with pytest.raises(SystemExit) as caught, exit_on_input_error("cmd"):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "cmd: stopped; run the same command again to continue\n"
    assert [signal.getsignal(number) for number in stop.SIGNALS] == before


def start(kind, folder, *options, kibibytes=None):
    """The worker's command, no file of which may grow beyond so many kibibytes."""
    command = [sys.executable, "-m", "tests.jobs_worker", kind, str(folder), *options]
    if kibibytes:
        command = ["bash", "-c", f'ulimit -f {kibibytes}; exec "$@"', "bash", *command]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_training_stopped_in_a_save_goes_on(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        known = saved_steps(folder)[-1:]
        with start("train", tmp_path / "run", "--steps", "4000") as process:
            while process.poll() is None and saved_steps(folder)[-1:] == known:
                time.sleep(0.01)
            while process.poll() is None and not any("tmp" in path.name for path in folder.iterdir()):
                pass
            process.send_signal(number)
            began = time.monotonic()
            _, errors = process.communicate(timeout=30)
        assert process.returncode == status
        assert time.monotonic() - began < 6
        assert errors.splitlines()[-1] == "train: stopped; run the same command again to continue"
        assert "Traceback" not in errors
    assert saved_steps(folder)[-1] > known[0]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kibibytes"), [("extract", 1), ("train", 3), ("compare", 6)])
def test_files_that_cannot_grow_end_with_one_line_and_the_same_command_goes_on(tmp_path, kind, kibibytes):
    write_inputs(tmp_path)
    with start(kind, tmp_path / "run", kibibytes=kibibytes) as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    _refused_for_room(errors, tmp_path)
    with start(kind, tmp_path / "run") as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 150 kB; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=150k", "covjax-test", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_with_one_line_and_the_same_command_goes_on(small_disk, tmp_path):
    with start("train", small_disk / "run") as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    _refused_for_room(errors, small_disk)
    assert not list((small_disk / "run").rglob("*tmp*"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    with start("train", small_disk / "run") as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert saved_steps(small_disk / "run" / "checkpoints")[-1] == 12


def _refused_for_room(errors: str, folder: Path) -> None:
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1, errors
    assert str(folder) in lines[0]
    assert "cannot be written: " in lines[0]
    assert "make room, then run the same command again" in lines[0]


@pytest.mark.slow
def test_a_folder_that_loses_shards_while_it_is_made_is_no_success(tmp_path):
    write_inputs(tmp_path)
    shards = tmp_path / "run" / "shards"
    with start("extract", tmp_path / "run") as process:
        while process.poll() is None and not (shards / "00000").is_dir():
            time.sleep(0.002)
        with contextlib.suppress(OSError):
            os.rename(shards / "00000", tmp_path / "gone")
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    assert "is not there at the end" in errors.splitlines()[-1]
    with start("extract", tmp_path / "run") as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "2 of 3 complete" in output
