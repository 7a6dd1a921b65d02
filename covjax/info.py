"""What covjax finds on this machine: versions, devices, encoders, poolers, extras, and what is missing.

    covjax info
    covjax info --encoder facebook/esm2_t6_8M_UR50D

Accelerators that the machine has and JAX does not see are named with the line that installs the JAX that does.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from covjax import __version__
from covjax.extras import EXTRAS, absent, pip_line
from covjax.jobs.parser import CommandParser

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


PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "optax", "orbax-checkpoint", "transformers", "matplotlib")


def main(argv: Sequence[str], command: str = "covjax info") -> int:
    """The command; exit status 2 and one line for an encoder that cannot be loaded."""
    flags = _parser(command).parse_args(argv)
    from covjax.jobs.cli import exit_on_input_error  # not before `--help`, which needs no JAX

    with exit_on_input_error(command):
        facts = collect(flags.encoder)
    print(json.dumps(facts, indent=1, ensure_ascii=False) if flags.json else "\n".join(to_lines(facts)))
    return 0


def collect(encoder: str | None = None) -> dict[str, Any]:
    """All facts, as `--json` prints them; of one encoder too where it is named.

    Raises InputError as `covjax.encoders.load`.
    """
    from covjax.pooling import pooler_names

    devices, failure = _devices()
    facts: dict[str, Any] = {
        "versions": {"covjax": __version__, "python": platform.python_version()} | {n: _version(n) for n in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "devices": devices,
        "devices_error": failure,
        "unseen_accelerators": unseen({device["platform"] for device in devices}),
        "encoders": _encoders(),
        "extras": {extra: {"missing": absent(EXTRAS[extra]), "install": pip_line(extra)} for extra in EXTRAS},
        "poolers": list(pooler_names()),
        "recipes": _recipes(),
    }
    if encoder is not None:
        facts["encoder"] = _describe(encoder)
    return facts


def to_lines(facts: dict[str, Any]) -> list[str]:
    """The facts as a person reads them, at most 80 columns where the words allow it."""
    lines = ["versions"]
    lines += [f"  {name:<18}{value or 'not installed'}" for name, value in facts["versions"].items()]
    lines += ["", f"devices that JAX sees ({facts['system']})"]
    lines += [f"  {device['platform']} {device['id']}: {device['kind']}" for device in facts["devices"]]
    lines += [f"  none: {facts['devices_error']}"] * bool(facts["devices_error"])
    lines += [f"  not used: {line}" for line in facts["unseen_accelerators"]]
    lines += ["", "encoders by name (a folder or owner/model of the hub is loaded as well)"]
    lines += _states(facts["encoders"])
    if encoder := facts.get("encoder"):
        lines += ["", f"encoder {encoder['name']}"]
        lines += [f"  {name:<18}{value}" for name, value in encoder.items() if name != "name"]
    lines += ["", "extras", *_states(facts["extras"])]
    for title, names in (("poolers", facts["poolers"]), ("recipes", facts["recipes"])):
        lines += ["", title, *_wrap(names)] if names else []
    return lines


def _states(states: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, state in states.items():
        text = f"without {', '.join(state['missing'])}: {state['install']}" if state["missing"] else "installed"
        lines.append(f"  {name:<18}{text}")
    return lines


def _parser(command: str) -> argparse.ArgumentParser:
    parser = CommandParser(command, __doc__ or "")
    parser.add_argument("--encoder", metavar="NAME", help="also load this encoder and say what it gives")
    parser.add_argument("--json", action="store_true", help="for programs: all facts as one JSON object")
    return parser


def _devices() -> tuple[list[dict[str, Any]], str]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:  # JAX_PLATFORMS names a platform that does not start
        return [], str(error).splitlines()[0]
    return [{"platform": d.platform, "id": d.id, "kind": d.device_kind} for d in devices], ""


def _encoders() -> dict[str, dict[str, Any]]:
    from covjax.encoders.loading import requirements

    return {name: {"missing": absent(each.packages), "install": each.install} for name, each in requirements().items()}


def _describe(name: str) -> dict[str, Any]:
    from covjax.encoders import load

    encoder = load(name)
    widths = sorted({encoder.features(layer) for layer in range(encoder.num_layers)})
    return {
        "name": encoder.name,
        "layers": encoder.num_layers,
        "features": ", ".join(map(str, widths)),
        "weights_digest": encoder.weights_digest,
        **_measure(encoder),
    }


SAMPLES = {"dna": "ACGT" * 32, "protein": "ACDEFGHIKLMNPQRSTVWY" * 6, "text": "the of and to in is it on a as " * 12}


def _measure(encoder: Any) -> dict[str, Any]:
    """Tokens a second of the last layer, 8 sequences at a time, after compilation, and bytes of its parameters."""
    import jax
    from flax import nnx

    from covjax.encoders import tokenize
    from covjax.errors import InputError

    leaves = jax.tree.leaves(nnx.state(encoder)) if isinstance(encoder, nnx.Module) else []
    facts: dict[str, Any] = {"memory_mib": round(sum(leaf.nbytes for leaf in leaves) / 2**20, 3) if leaves else None}
    sample = SAMPLES[getattr(encoder, "letters", None) or "text"]
    while sample:
        try:
            tokens, mask, _ = tokenize(encoder, [sample] * 8)
        except InputError:  # longer than the model's positions, or not in its vocabulary
            sample = sample[: len(sample) // 2]
            continue
        jax.block_until_ready(encoder.apply(tokens, mask, (-1,)))
        start = time.perf_counter()
        jax.block_until_ready(encoder.apply(tokens, mask, (-1,)))
        seconds = time.perf_counter() - start
        return facts | {"tokens_a_second": round(int(mask.sum()) / seconds), "tokens_each": int(mask[0].sum())}
    return facts | {"tokens_a_second": None, "tokens_each": None}


def _recipes() -> list[str]:
    try:
        from covjax.recipes import recipe_names
    except ModuleNotFoundError:
        return []
    return list(recipe_names())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _wrap(names: Sequence[str]) -> list[str]:
    return textwrap.wrap(", ".join(names), 80, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
