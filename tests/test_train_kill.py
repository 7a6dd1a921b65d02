"""Real processes, really killed: whatever the moment, the end is bit for bit that of an uninterrupted run.

COVJAX_KILLS=20 python -m pytest tests/test_train_kill.py kills as often as the issue asks; the default is quicker.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from covjax.autoencoders import load_autoencoder
from covjax.jobs import checkpoint
from covjax.jobs.folder import checkpoint_path, saved_steps
from covjax.training.autoencoder import train_autoencoder
from covjax.training.log import read_log
from tests.conftest import ROOT
from tests.toy_autoencoders import activations, config

KILLS = int(os.environ.get("COVJAX_KILLS", "4"))
STEPS, SAVE_EVERY = 30 * KILLS, 2


def _start(output: Path, steps: int = STEPS, devices: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.toy_autoencoders", str(output), str(steps), str(SAVE_EVERY)]
    flags = f"--xla_force_host_platform_device_count={devices}"
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(output.parent / "cache"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | cache
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def _saving(folder: Path) -> bool:
    return any("tmp" in path.name for path in folder.glob("*"))


def _wait(process: subprocess.Popen, until: Callable[[], bool], pause: float = 0.01) -> None:
    while process.poll() is None and not until():
        time.sleep(pause)


def _kill(process: subprocess.Popen) -> bool:
    """Kill; False if it had ended."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_bit_identical(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    folder = broken / "checkpoints"
    reference = _start(whole)
    moments = random.Random(0)
    in_save, until_trained = 0, 0.0
    for kill in range(KILLS):
        began, known = time.monotonic(), saved_steps(folder)[-1:]
        process = _start(broken)
        if kill % 4 == 3:  # anywhere from the start of the process to its first save
            time.sleep(moments.uniform(0, until_trained))
        else:
            _wait(process, lambda known=known: saved_steps(folder)[-1:] != known)
            until_trained = until_trained or time.monotonic() - began
            if kill % 2:
                time.sleep(moments.uniform(0, 0.3))
            else:
                _wait(process, lambda: _saving(folder), pause=0)
        assert _kill(process)
        in_save += _saving(folder)
        assert 0 < saved_steps(folder)[-1] < STEPS
    assert in_save  # at least one save was cut in half, and its remains lay there at the next start
    end = _start(broken)  # and once more at the end, with the last checkpoint there and nothing else
    _wait(end, lambda: saved_steps(folder)[-1] == STEPS)
    assert _kill(end)
    assert not (broken / "held-out.json").exists()
    last = _start(broken)
    _finish(reference)
    _finish(last)
    first, second = (checkpoint.read_manifest(checkpoint_path(p / "checkpoints", STEPS)) for p in (whole, broken))
    assert first is not None
    assert first == second  # digests of all leaves, step, iterator, config, data
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in read_log(p)] for p in (whole, broken)]
    assert rows[0] == rows[1]
    assert len([row for row in rows[0] if row["split"] == "train"]) == STEPS
    assert not _saving(folder)
    models = [load_autoencoder(p / "autoencoder") for p in (whole, broken)]
    np.testing.assert_array_equal(models[0].left[...], models[1].left[...])
    assert (whole / "held-out.json").read_text() == (broken / "held-out.json").read_text()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    assert jax.device_count() == 1
    path = tmp_path / "run"
    _finish(_start(path, 6, devices=4))
    four = load_autoencoder(path / "autoencoder")
    checkpoint.remove(checkpoint_path(path / "checkpoints", 6))  # as if killed after step 4
    one = train_autoencoder(config(path, steps=6, save_every=SAVE_EVERY), activations()).model
    np.testing.assert_allclose(one.left[...], four.left[...], atol=1e-5)
    np.testing.assert_array_equal([row["step"] for row in read_log(path) if row["split"] == "train"], range(1, 7))
    assert one.seen[...] == four.seen[...] == 6 * 8
