"""Training by several processes: one device's result to reduction order, checkpoints for any topology, kills.

Steps sum gradients over devices in another order than one device does, which Adam carries on: after the few steps here
parameters agree to 1e-5 of values of about 1.
"""

import json
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from covjax import InputError
from covjax.autoencoders import load_autoencoder
from covjax.jobs import checkpoint
from covjax.jobs.folder import checkpoint_path, saved_steps
from covjax.training.autoencoder import train_autoencoder
from covjax.training.log import read_log
from covjax.training.state import data_mesh
from tests.processes import finish, launch, start
from tests.toy_autoencoders import Unheld, activations, config

OPTIONS = {"latents": 48, "k": 4, "dead_after": 8.0}  # some latents die: AuxK is at work
SPARSE = {"kind": "topk", "options": OPTIONS, "batch": 16, "steps": 6, "save_every": 3}
SPARSE |= {"max_memory_gib": 0.0, "mix_tokens": 400}  # every process reads the blocks of its own lanes


def _parameters(path: Path) -> dict[str, np.ndarray]:
    model = load_autoencoder(path / "autoencoder")
    names = ("encoder", "decoder", "encoder_bias", "decoder_bias", "idle")
    return {name: np.asarray(getattr(model, name)[...]) for name in names}


def _assert_close(path: Path, expected: dict[str, np.ndarray]) -> None:
    found = _parameters(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The parameters after training on one device, and the folder of a run by 4 processes, latents split over pairs."""
    folder = tmp_path_factory.mktemp("runs")
    train_autoencoder(config(folder / "one", **SPARSE), Unheld(activations()))
    outputs = launch(["training", str(folder / "four"), json.dumps(SPARSE | {"model_parallel": 2})], processes=4)
    assert len({line.split("held-out")[1] for output in outputs for line in output.splitlines() if "held" in line}) == 1
    return _parameters(folder / "one"), folder / "four"


def _unfinished(folder: Path, tmp_path: Path) -> Path:
    """A copy of a run as if it had been killed after step 3."""
    path = Path(shutil.copytree(folder, tmp_path / "run"))
    checkpoint.remove(checkpoint_path(path / "checkpoints", 6))
    shutil.rmtree(path / "autoencoder")
    assert saved_steps(path / "checkpoints") == [3]
    return path


@pytest.mark.long
def test_four_processes_end_where_one_device_does(runs):
    expected, folder = runs
    _assert_close(folder, expected)
    assert [row["step"] for row in read_log(folder) if row["split"] == "train"] == list(range(1, 7))
    manifest = checkpoint.read_manifest(checkpoint_path(folder / "checkpoints", 6))
    assert manifest is not None
    assert len(manifest["digests"]) > len(expected)


@pytest.mark.long
def test_their_checkpoint_goes_on_on_one_device(runs, tmp_path):
    expected, folder = runs
    path = _unfinished(folder, tmp_path)
    assert jax.device_count() == 1
    train_autoencoder(config(path, **SPARSE), Unheld(activations()))
    _assert_close(path, expected)


@pytest.mark.slow
def test_their_checkpoint_goes_on_on_eight_devices(runs, tmp_path):
    expected, folder = runs
    path = _unfinished(folder, tmp_path)
    (output,) = launch(["training", str(path), json.dumps(SPARSE | {"model_parallel": 4})], devices=8)
    assert "resumed at step 3 of 6" in output
    _assert_close(path, expected)


@pytest.mark.long
def test_a_killed_process_ends_the_job_which_then_resumes(tmp_path):
    settings = json.dumps({"steps": 10, "save_every": 2})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = start(["training", str(broken), settings, "0.2"], processes=2)
    while len(saved_steps(broken / "checkpoints")) < 2 and all(process.poll() is None for process in started):
        time.sleep(0.02)
    started[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    done = finish(started)
    assert time.monotonic() - killed < 60
    assert done[1][0] == -signal.SIGKILL
    assert done[0][0] not in (0, 2)
    assert "stopped sending heartbeats):\n1\n" in done[0][2]
    assert saved_steps(broken / "checkpoints")[-1] < 10
    launch(["training", str(broken), settings, "+", "training", str(whole), settings], processes=2)
    first, second = (checkpoint.read_manifest(checkpoint_path(path / "checkpoints", 10)) for path in (whole, broken))
    assert first is not None
    assert first == second  # digests of all leaves, step, iterator, config


def test_what_cannot_be_split_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("covjax.training.autoencoder.data_mesh", lambda *_: None)
    with pytest.raises(InputError, match="model_parallel: 2: noisy-tucker has no latents"):
        train_autoencoder(config(tmp_path / "a", model_parallel=2), activations())
    with pytest.raises(InputError, match="model_parallel: 5: topk has 48 latents"):
        train_autoencoder(config(tmp_path / "b", **SPARSE, model_parallel=5), activations())
    with pytest.raises(InputError, match="model_parallel: 1 devices cannot be divided by 3"):
        data_mesh(8, 3)
    with pytest.raises(InputError, match="model_parallel: 0 is not allowed"):
        train_autoencoder(config(tmp_path / "c", model_parallel=0), activations())
