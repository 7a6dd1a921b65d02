"""Rotary positions as a config.json declares them: base, share of a head, scaling for longer contexts.

transformers 5 writes `rope_parameters`, by kind of layer where they differ; before it stood `rope_theta` and
`rope_scaling` beside each other. Both are read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError, shown

KINDS = ("default", "linear", "llama3", "yarn")
# What decides, beside the kind, for each of them; YaRN's own has more that published models do not set.
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True)
class Rotary:
    """Frequencies of the rotated pairs of a head, and what cosines and sines are multiplied by."""

    frequencies: tuple[float, ...]
    factor: float = 1.0

    def array(self) -> Float[np.ndarray, "half"]:
        """The frequencies in float32."""
        return np.array(self.frequencies, np.float32)


def read_rotary(
    file: Path,
    config: Mapping[str, Any],
    head: int,
    base: float,
    share: float | None = None,
    layer: str | None = None,
) -> Rotary:
    """The rotary positions that a config.json declares, for heads of `head` features.

    `base` and `share` are those of a config that says none; a family with no `share` rotates whole heads. `layer` is
    the kind of layer whose parameters count where kinds have their own. Raises InputError for a kind of scaling that is
    not known, a number that is missing or impossible, and a share that is not supported.
    """
    parts = []
    for key in ("rope_scaling", "rope_parameters"):
        part = config.get(key) or {}
        if isinstance(part, dict) and any(isinstance(value, dict) for value in part.values()):
            part = part.get(str(layer)) or {}
        if not isinstance(part, dict):
            raise InputError(f"{file}: {key} is {shown(part)}, expected an object")
        parts.append(part)
    options = parts[0] | parts[1]
    kind = options.get("rope_type", options.get("type", "default"))
    if kind not in KINDS:
        raise InputError(f"{file}: rope_type {shown(kind)} is not supported; allowed: {KINDS}")
    numbers = {"rope_theta": base, "partial_rotary_factor": share or 1.0} | {
        key: value for key, value in options.items() if value is not None and key not in ("type", "rope_type")
    }
    if kind in ("llama3", "yarn"):
        numbers.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    for key in ("rope_theta", "partial_rotary_factor", *NEEDED[kind]):
        value: Any = numbers.get(key)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise InputError(f"{file}: {key} of the rotary positions is {shown(value)}, expected a positive number")
    width = int(head * numbers["partial_rotary_factor"])
    if width < 2 or width % 2 or width > head or (share is None and width != head):
        whole = "all of them" if share is None else "an even number"
        raise InputError(f"{file}: rotary positions of {width} of a head's {head} features; expected {whole}")
    plain = numbers["rope_theta"] ** (-np.arange(0, width, 2) / width)
    if kind == "default":
        return Rotary(tuple(plain.tolist()))
    if kind == "yarn":
        return _yarn(file, plain, numbers, width)
    slow = plain / numbers["factor"]
    if kind == "linear":
        return Rotary(tuple(slow.tolist()))
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    if low >= high:
        raise InputError(f"{file}: low_freq_factor {low} must be below high_freq_factor {high}")
    turns = numbers["original_max_position_embeddings"] * plain / (2 * math.pi)
    part = np.clip((turns - low) / (high - low), 0, 1)  # 1: a frequency that stays
    return Rotary(tuple((part * plain + (1 - part) * slow).tolist()))


def _yarn(file: Path, plain: np.ndarray, numbers: Mapping[str, Any], width: int) -> Rotary:
    """YaRN (Peng et al. 2023): fast frequencies stay, slow ones are divided, in between a ramp over the pairs."""
    for key in ("mscale", "mscale_all_dim"):
        if key in numbers:
            raise InputError(f"{file}: {key} {shown(numbers[key])} of the rotary positions is not supported")
    base, factor, length = (numbers[k] for k in ("rope_theta", "factor", "original_max_position_embeddings"))
    ends = [
        width * math.log(length / (2 * math.pi * turns)) / (2 * math.log(base))
        for turns in (numbers.get("beta_fast", 32), numbers.get("beta_slow", 1))
    ]
    if numbers.get("truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], width - 1)
    ramp = np.clip((np.arange(width // 2) - low) / (high - low or 0.001), 0, 1)
    scale = numbers.get("attention_factor", 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1)
    return Rotary(tuple((plain * (1 - ramp) + plain / factor * ramp).tolist()), float(scale))
