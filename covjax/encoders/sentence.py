"""Folders of sentence-transformers: where their Transformer lies, and what they do to a text before it."""

from pathlib import Path
from typing import Any, NamedTuple

from covjax.errors import InputError, shown
from covjax.modelfiles import parse_json, read_json


class SentenceSettings(NamedTuple):
    """The folder of the Transformer; most tokens, special ones included; prompt before a text; lower case."""

    folder: Path
    max_tokens: int | None = None
    prompt: str = ""
    lower: bool = False


def read_settings(folder: Path) -> SentenceSettings:
    """Read `modules.json` and the files it points to; a folder without it is one of transformers.

    `max_seq_length` and `do_lower_case` stand in `sentence_bert_config.json` (or the same of another family) beside the
    Transformer; the prompt is that of `default_prompt_name` in `config_sentence_transformers.json`, none without it.

    Raises InputError for damaged files, a folder whose first module is no Transformer, and values of another type.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return SentenceSettings(folder)
    modules = parse_json(b'{"modules": ' + file.read_bytes() + b"}", str(file))["modules"]
    first = modules[0] if isinstance(modules, list) and modules else None
    if not isinstance(first, dict) or not str(first.get("type")).endswith(".Transformer"):
        raise InputError(f"{file}: its first module is {shown(first, 60)}, expected a Transformer")
    inner = folder / str(first.get("path", ""))
    if folder.resolve() not in (inner.resolve(), *inner.resolve().parents):
        raise InputError(f"{file}: {shown(first['path'])} is not inside the folder")
    settings: dict[str, Any] = {}
    for each in sorted(inner.glob("sentence_*_config.json")):
        settings |= read_json(each)
    prompts: dict[str, Any] = {}
    if (folder / "config_sentence_transformers.json").is_file():
        prompts = read_json(folder / "config_sentence_transformers.json")
    name, most, lower = (
        prompts.get("default_prompt_name"),
        settings.get("max_seq_length"),
        settings.get("do_lower_case"),
    )
    prompt = "" if name is None else (prompts.get("prompts") or {}).get(name)
    if not isinstance(prompt, str):
        raise InputError(f"{folder}: default_prompt_name {shown(name)} is not among its prompts")
    if most is not None and (type(most) is not int or most < 1):
        raise InputError(f"{folder}: max_seq_length {shown(most)} is not a number of tokens")
    return SentenceSettings(inner, most, prompt, bool(lower))
