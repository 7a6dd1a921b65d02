"""Accelerators that this machine has, found without JAX, and the line that installs the JAX that uses them."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

# Extras of JAX from its installation page: CUDA 13 needs this driver and these GPUs, CUDA 12 runs on older ones.
CUDA13_DRIVER, CUDA13_CAPABILITY = 580, 7.5
TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE")  # Google Cloud sets them on the hosts of TPUs
GOOGLE = "0x1ae0"  # as a maker of PCI devices
GOOGLE_NETWORK = "0x0042"  # its network card, which machines without a TPU have too


class Accelerator(NamedTuple):
    """What the machine has: `platform` as JAX calls it, where that was seen, and what installs JAX for it."""

    platform: str  # "gpu" or "tpu"
    evidence: str
    install: str


def find_accelerators(root: Path = Path("/")) -> list[Accelerator]:
    """NVIDIA GPUs and TPUs of this machine, by the files of their drivers under `root`; at most one entry a kind."""
    return [each for each in (_nvidia(root), _tpu(root)) if each is not None]


def unseen(platforms: set[str], root: Path = Path("/")) -> list[str]:
    """One line for each accelerator of this machine whose platform is not among those that JAX sees."""
    return [_reason(each) for each in find_accelerators(root) if each.platform not in platforms]


def _reason(accelerator: Accelerator) -> str:
    name = {"gpu": "NVIDIA GPU", "tpu": "TPU"}[accelerator.platform]
    start = f"{name} ({accelerator.evidence}), which JAX does not see: "
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen and not {accelerator.platform, "cuda"} & set(chosen.split(",")):
        return f"{start}unset JAX_PLATFORMS, which is {chosen}"
    if accelerator.platform == "gpu" and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return f"{start}unset CUDA_VISIBLE_DEVICES, which hides it"
    return f"{start}{accelerator.install}"


def _nvidia(root: Path) -> Accelerator | None:
    version = root / "proc/driver/nvidia/version"
    devices = sorted((root / "dev").glob("nvidia[0-9]*"))
    query = _nvidia_smi() if root == Path("/") else []
    if not (version.is_file() or devices or query):
        return None
    driver, capability = _driver(version), None
    evidence = str(devices[0] if devices else version)
    if query:
        name, driver_text, capability_text = query
        evidence, driver = name, _number(driver_text) or driver
        capability = _number(capability_text)
    new = (driver or 0) >= CUDA13_DRIVER and (capability or CUDA13_CAPABILITY) >= CUDA13_CAPABILITY
    extra = "cuda13" if new else "cuda12"
    return Accelerator("gpu", evidence + (f", driver {driver:g}" if driver else ""), _install(extra))


def _nvidia_smi() -> list[str]:
    """Name, driver and compute capability of the first GPU; nothing where the tool is absent or fails."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    fields = [field.strip() for field in text.splitlines()[0].split(",")] if text.strip() else []
    return fields if len(fields) == 3 else []


def _driver(version: Path) -> float | None:
    match = re.search(r"NVRM version:.*?\s(\d+\.\d+)", version.read_text()) if version.is_file() else None
    return _number(match[1]) if match else None


def _number(text: str) -> float | None:
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None


def _tpu(root: Path) -> Accelerator | None:
    devices = sorted((root / "dev").glob("accel[0-9]*")) + sorted((root / "dev/vfio").glob("[0-9]*"))
    if devices and any(map(_is_tpu, (root / "sys/bus/pci/devices").glob("*"))):
        return Accelerator("tpu", str(devices[0]), _install("tpu"))
    if name := next((name for name in TPU_VARIABLES if os.environ.get(name)), None):
        return Accelerator("tpu", f"{name} is set", _install("tpu"))
    return None


def _is_tpu(device: Path) -> bool:
    try:
        maker, model = ((device / name).read_text().strip() for name in ("vendor", "device"))
    except OSError:
        return False
    return maker == GOOGLE and model != GOOGLE_NETWORK


def _install(extra: str) -> str:
    plugin = {"tpu": "libtpu"}.get(extra, f"jax_{extra}_plugin")
    if importlib.util.find_spec(plugin) is not None:
        platform = "tpu" if extra == "tpu" else "cuda"
        return f"{plugin} is installed but fails; python -c 'import jax; jax.devices(\"{platform}\")' says why"
    return f'pip install -U "jax[{extra}]"'
