"""What covjax finds on this machine: versions, devices, encoders, poolers, extras, and what is missing.

    covjax info
    covjax info --encoder facebook/esm2_t6_8M_UR50D

Accelerators that the machine has and JAX does not see are named with the line that installs the JAX that does.
"""

import argparse
import json
import platform
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from covjax import __version__
from covjax.accelerators import unseen
from covjax.extras import EXTRAS, absent, pip_line
from covjax.parser import CommandParser

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "optax", "orbax-checkpoint", "transformers", "matplotlib")


def main(argv: Sequence[str], command: str = "covjax info") -> int:
    """The command; exit status 2 and one line for an encoder that cannot be loaded."""
    flags = _parser(command).parse_args(argv)
    from covjax.cli import exit_on_input_error  # not before `--help`, which needs no JAX

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
    from covjax.encoders.base import requirements

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
    }


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
