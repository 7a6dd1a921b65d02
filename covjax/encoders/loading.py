"""Load an encoder by a registered name, a file, a folder in the Hugging Face layout, or a hub id."""

import importlib
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from covjax.encoders import bert, unirep  # noqa: F401  (they register the models that packages bring)
from covjax.encoders.base import LOADERS, REQUIREMENTS, Encoder, Requirement, register_encoder
from covjax.encoders.sentence import read_settings
from covjax.errors import InputError, shown
from covjax.modelfiles import read_json

# model_type of config.json: the module and its loader, called with (name, folder, dtype).
FAMILIES = {
    "bert": ("covjax.encoders.bert", "bert"),
    "camembert": ("covjax.encoders.bert", "roberta"),
    "distilbert": ("covjax.encoders.distilbert", "distilbert"),
    "esm": ("covjax.encoders.esm", "Esm"),
    "esmc": ("covjax.encoders.esmc", "esmc"),
    "gemma2": ("covjax.encoders.gemma", "gemma2"),
    "gemma3_text": ("covjax.encoders.gemma", "gemma3"),
    "gpt2": ("covjax.encoders.gpt2", "gpt2"),
    "gpt_neox": ("covjax.encoders.gpt_neox", "gpt_neox"),
    "llama": ("covjax.encoders.llama", "llama"),
    "mistral": ("covjax.encoders.llama", "mistral"),
    "modernbert": ("covjax.encoders.modernbert", "modernbert"),
    "mpnet": ("covjax.encoders.mpnet", "mpnet"),
    "ntv3": ("covjax.encoders.ntv3", "NTv3"),
    "qwen2": ("covjax.encoders.llama", "qwen2"),
    "qwen3": ("covjax.encoders.llama", "qwen3"),
    "roberta": ("covjax.encoders.bert", "roberta"),
    "t5": ("covjax.encoders.t5", "t5"),
    "xlm-roberta": ("covjax.encoders.bert", "roberta"),
}
FILES = {suffix: ("covjax.encoders.spliceai", "SpliceAI") for suffix in (".pt", ".h5")}  # models of one file
YEAST_LM = Path(__file__).resolve().parent / "yeast_lm"  # weights and model card: see README.md there
TORCH = "torch:"
DTYPES = ("float32", "bfloat16")


def _yeast_lm(dtype: Any) -> Encoder:
    encoder: Encoder = importlib.import_module("covjax.encoders.ntv3").NTv3("yeast-lm", YEAST_LM, dtype)
    return encoder


register_encoder("yeast-lm", _yeast_lm)


def requirements() -> dict[str, Requirement]:
    """The packages that every registered encoder needs, by its name, in alphabetical order."""
    return dict(sorted(REQUIREMENTS.items()))


def load(name: str | Path, dtype: Any = jnp.float32, trust_remote_code: bool = False) -> Encoder:
    """Load a frozen encoder by a registered name, a file, a folder in the Hugging Face layout, or a hub id.

    A file is a model of SpliceAI or OpenSpliceAI (.h5, .pt). A folder's `model_type` (config.json) decides the family.
    A hub id ("facebook/esm2_t6_8M_UR50D") is downloaded by huggingface_hub into its cache and then read like a folder.
    "torch:NAME" is a folder or hub id of a model that PyTorch and transformers run
    (`covjax.encoders.pytorch.load_torch`); with `trust_remote_code`, code that comes with the model is run too.
    `dtype`, float32 or bfloat16, is the type of the parameters, of the computation and of the activations; layer norm
    and softmax are computed in float32, and matrix products add up in it.
    Raises InputError for an unknown name, an unsupported model_type, option or dtype, and damaged or missing files.
    """
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise InputError(f"dtype: {dtype!r} is not a type; allowed: {' and '.join(DTYPES)}") from None
    if dtype.name not in DTYPES:
        raise InputError(f"dtype: {dtype.name} is not supported; allowed: {' and '.join(DTYPES)}")
    if isinstance(name, str) and name.startswith(TORCH):
        pytorch = importlib.import_module("covjax.encoders.pytorch")  # which fetches by this module
        return pytorch.load_torch(name.removeprefix(TORCH), dtype, trust_remote_code)
    if trust_remote_code:
        raise InputError(f"trust_remote_code: only for {TORCH}NAME; covjax runs no code of {shown(str(name))}")
    if isinstance(name, str) and name in LOADERS:
        return LOADERS[name](dtype)
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"encoder: {shown(name)} is neither a name nor a path")
    name = os.fspath(name)
    is_folder = os.path.isdir(name)  # not Path's own test, which raises for a name that is too long
    if Path(name).suffix in FILES and not is_folder:
        if not os.path.isfile(name):
            raise InputError(f"encoder: there is no file {shown(name, 300)[1:-1]}")
        module, family = FILES[Path(name).suffix]
        return getattr(importlib.import_module(module), family)(Path(name).stem, Path(name), dtype)
    folder = read_settings(Path(name) if is_folder else fetch(name)).folder
    if not (folder / "config.json").is_file():
        raise InputError(f"encoder: {name}: no config.json in the folder")
    kind = read_json(folder / "config.json").get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        allowed = ", ".join(sorted(FAMILIES))
        raise InputError(f"encoder: {name}: model_type {shown(kind)} is not supported; allowed: {allowed}")
    module, family = FAMILIES[kind]
    return getattr(importlib.import_module(module), family)(folder.name if is_folder else name, folder, dtype)


def fetch(name: str, *more: str) -> Path:
    """The folder of a hub model, downloaded if it is not in the cache; `more` are patterns of further files."""
    if name.count("/") != 1:
        raise InputError(
            f"encoder: {shown(name)} is not known; allowed: {', '.join(sorted(LOADERS))}, "
            "a folder, or owner/model of the hub"
        )
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.safetensors", "spiece.model", *more]
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if not any((folder / file).is_file() for file in ("model.safetensors", "model.safetensors.index.json")):
            # Older models (DNABERT, ESM-2 15B) have PyTorch's format alone, the largest in parts.
            snapshot_download(name, allow_patterns=["pytorch_model.bin", "pytorch_model-*.bin"])
        return folder
    except Exception as error:  # network, authorisation, no such model: the hub raises many types
        raise InputError(
            f"encoder: {shown(name)} is not a folder and cannot be fetched: {type(error).__name__}"
        ) from None
