"""config.json of a Hugging Face folder: the options that decide the activations, each with the values allowed.

A family declares what its implementation reads to compute hidden states. Every other key (training, generation, heads,
bookkeeping) is ignored, whatever its name, because nothing computes with it. A model of the same `model_type` with
code of its own is told apart by its tensors, all of which must be taken with the shapes expected, and by the keys that
published ones are known by, which the family declares too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covjax.errors import InputError, shown
from covjax.jsonfile import read_json

__all__ = ["SIZES", "check_options", "read_config", "read_json"]

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def read_config(folder: Path, defaults: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Read the options that decide, over the family's defaults.

    `allowed` names the values of every option that changes the computation. Raises InputError for another value and for
    a size, an epsilon or a token number that is missing or impossible.
    """
    file = folder / "config.json"
    config = {**defaults, **read_json(file)}
    sizes = [*SIZES, "max_position_embeddings"] + ["type_vocab_size"] * ("type_vocab_size" in defaults)
    check_options(file, config, allowed, sizes)
    if config["hidden_size"] % config["num_attention_heads"]:
        heads = config["num_attention_heads"]
        raise InputError(f"{file}: hidden_size {config['hidden_size']} is not a multiple of {heads} heads")
    pad = config.get("pad_token_id")
    if type(pad) is not int or not 0 <= pad < config["vocab_size"]:
        raise InputError(f"{file}: pad_token_id is {shown(pad)}, expected a number from 0 to vocab_size − 1")
    return config


def check_options(
    file: Path, config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], sizes: list[str]
) -> None:
    """Raise InputError for an option outside `allowed`, a size that is no positive integer, an impossible epsilon."""
    for option, values in allowed.items():
        if option in config and config[option] not in values:
            raise InputError(f"{file}: {option} {shown(config[option])} is not supported; allowed: {values}")
    for size in sizes:
        if type(config.get(size)) is not int or config[size] < 1:
            raise InputError(f"{file}: {size} is {shown(config.get(size))}, expected a positive integer")
    eps = config.get("layer_norm_eps")
    if not isinstance(eps, int | float) or isinstance(eps, bool) or not 0 < eps < 1:
        raise InputError(f"{file}: layer_norm_eps is {shown(eps)}, expected a number between 0 and 1")
