"""Real processes, really killed: whatever the moment, the end is bit for bit that of an uninterrupted run.

COVJAX_KILLS=20 python -m pytest tests/test_train_kill.py kills as often as the issue asks; the default is quicker.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from covjax import checkpoint
from covjax.autoencoders import load_autoencoder
from covjax.training.checkpoints import checkpoint_path, saved_steps
from covjax.training.log import read_log
from tests.conftest import ROOT
from tests.toy_autoencoders import activations, config
from train.autoencoder import train_autoencoder

KILLS = int(os.environ.get("COVJAX_KILLS", "4"))
STEPS, SAVE_EVERY = 30 * KILLS, 2


def _start(output: Path, steps: int = STEPS, devices: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.toy_autoencoders", str(output), str(steps), str(SAVE_EVERY)]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


def _saving(folder: Path) -> bool:
    return any("tmp" in path.name for path in folder.glob("*"))


def _kill(process: subprocess.Popen, folder: Path, during_save: bool, delay: float) -> bool:
    """Kill once the process trains: while a save is under way, or `delay` seconds later. False if it had ended."""
    known = saved_steps(folder)[-1:]
    while process.poll() is None and saved_steps(folder)[-1:] == known:
        time.sleep(0.01)
    if during_save:
        while process.poll() is None and not _saving(folder):
            time.sleep(0)
    else:
        time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_bit_identical(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    reference = _start(whole)
    moments = random.Random(0)
    in_save = 0
    for kill in range(KILLS):
        process = _start(broken)
        assert _kill(process, broken / "checkpoints", kill % 2 == 0, moments.uniform(0, 0.3))
        in_save += _saving(broken / "checkpoints")
        assert 0 < saved_steps(broken / "checkpoints")[-1] < STEPS
    assert in_save  # at least one save was cut in half, and its remains lay there at the next start
    last = _start(broken)
    _finish(reference)
    _finish(last)
    first, second = (checkpoint.read_manifest(checkpoint_path(p / "checkpoints", STEPS)) for p in (whole, broken))
    assert first is not None
    assert first == second  # digests of all leaves, step, iterator, config, data
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in read_log(p)] for p in (whole, broken)]
    assert rows[0] == rows[1]
    assert len([row for row in rows[0] if row["split"] == "train"]) == STEPS
    assert not _saving(broken / "checkpoints")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    assert jax.device_count() == 1
    path = tmp_path / "run"
    _finish(_start(path, 6, devices=4))  # saved by four devices …
    four = load_autoencoder(path / "autoencoder")
    single = train_autoencoder(config(tmp_path / "one", steps=6, save_every=SAVE_EVERY), activations()).model
    np.testing.assert_allclose(four.left[...], single.left[...], atol=1e-4)
    end = checkpoint_path(path / "checkpoints", 6)
    checkpoint.remove(end)
    resumed = train_autoencoder(config(path, steps=6, save_every=SAVE_EVERY), activations()).model  # … resumed on one
    np.testing.assert_allclose(resumed.left[...], single.left[...], atol=1e-4)
    assert resumed.seen[...] == 6 * 8
    checkpoint.remove(end)
    _finish(_start(path, 6, devices=2))  # … and on two
    assert saved_steps(path / "checkpoints") == [4, 6]
