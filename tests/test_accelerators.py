"""Accelerators that JAX does not see are named with the line that installs the JAX that does."""

import importlib.util

import pytest

from covjax import info
from covjax.info import find_accelerators, unseen

VERSION = "NVRM version: NVIDIA UNIX {}x86_64 Kernel Module  {}  Tue May 27 03:05:06 UTC 2025\nGCC version: 12\n"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", *info.TPU_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    find = importlib.util.find_spec
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in plugins else find(name, *a))


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def pci(root, vendor, device, name="0000:00:04.0"):
    folder = root / "sys/bus/pci/devices" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")


def test_a_machine_without_one(tmp_path):
    assert find_accelerators(tmp_path) == []
    assert unseen({"cpu"}, tmp_path) == []


@pytest.mark.parametrize(
    ("kernel", "driver", "extra"),
    [("Open Kernel Module for ", "580.65.06", "cuda13"), ("", "535.129.03", "cuda12"), ("", "575.57.08", "cuda12")],
)
def test_a_gpu_by_its_driver(tmp_path, kernel, driver, extra):
    write(tmp_path, proc__driver__nvidia__version=VERSION.format(kernel, driver), dev__nvidia0="")
    (line,) = unseen({"cpu"}, tmp_path)
    assert line.startswith("NVIDIA GPU (")
    assert f"/nvidia0, driver {float('.'.join(driver.split('.')[:2])):g})" in line
    assert line.endswith(f'pip install -U "jax[{extra}]"')
    assert unseen({"cpu", "gpu"}, tmp_path) == []


def test_a_gpu_seen_by_its_device_alone(tmp_path):
    write(tmp_path, dev__nvidia1="", dev__nvidiactl="")
    assert unseen({"cpu"}, tmp_path)[0].endswith('pip install -U "jax[cuda12]"')


@pytest.mark.parametrize(
    ("answer", "extra"),
    [
        (["NVIDIA H100 80GB HBM3", "580.65.06", "9.0"], "cuda13"),
        (["Tesla V100-SXM2-16GB", "580.65.06", "7.0"], "cuda12"),
        (["NVIDIA A100", "550.54.15", "8.0"], "cuda12"),
    ],
)
def test_a_gpu_by_nvidia_smi(monkeypatch, answer, extra):
    monkeypatch.setattr(info, "_nvidia_smi", lambda: answer)
    gpu = find_accelerators()[0]
    assert gpu.platform == "gpu"
    assert gpu.evidence.startswith(answer[0])
    assert gpu.install == f'pip install -U "jax[{extra}]"'


def test_nvidia_smi_that_fails_says_nothing(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert info._nvidia_smi() == []
    for script, answer in (
        ("#!/bin/sh\nexit 9\n", []),
        ("#!/bin/sh\necho\n", []),
        ("#!/bin/sh\necho 'NVIDIA L4, 570.1, 8.9'\necho 'NVIDIA L4, 570.1, 8.9'\n", ["NVIDIA L4", "570.1", "8.9"]),
    ):
        tool.write_text(script)
        tool.chmod(0o755)
        assert info._nvidia_smi() == answer


def test_a_tpu_by_its_device(tmp_path):
    write(tmp_path, dev__accel0="")
    assert find_accelerators(tmp_path) == []  # other makers call theirs so too
    pci(tmp_path, "0x1ae0", "0x0042", "0000:00:05.0")
    assert find_accelerators(tmp_path) == []  # Google's network card
    pci(tmp_path, "0x1ae0", "0x0063")
    (line,) = unseen({"cpu"}, tmp_path)
    assert line.startswith("TPU (")
    assert line.endswith('pip install -U "jax[tpu]"')


def test_a_tpu_by_vfio_and_by_the_host_s_variables(tmp_path, monkeypatch):
    write(tmp_path, dev__vfio__0="")
    pci(tmp_path, "0x1ae0", "0x006f")
    assert [each.platform for each in find_accelerators(tmp_path)] == ["tpu"]
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert find_accelerators(tmp_path / "empty")[0].evidence == "TPU_WORKER_ID is set"


def test_what_hides_an_accelerator_is_named_instead(tmp_path, monkeypatch):
    write(tmp_path, dev__nvidia0="")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unseen({"cpu"}, tmp_path)[0].endswith("unset CUDA_VISIBLE_DEVICES, which hides it")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert unseen({"cpu"}, tmp_path)[0].endswith("unset JAX_PLATFORMS, which is cpu")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert unseen({"cpu"}, tmp_path)[0].endswith('pip install -U "jax[cuda12]"')


def test_a_plugin_that_is_there_and_fails(tmp_path, monkeypatch):
    write(tmp_path, dev__nvidia0="")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object())
    assert "jax_cuda12_plugin is installed but fails" in unseen({"cpu"}, tmp_path)[0]
