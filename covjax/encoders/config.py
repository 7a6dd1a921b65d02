"""config.json of a Hugging Face folder: options are obeyed or refused by name, never ignored."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covjax.errors import InputError

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")

# Options that cannot change the activations of a frozen encoder: training, generation, heads, bookkeeping.
INERT = frozenset((
    "_name_or_path", "architectures", "attention_probs_dropout_prob", "auto_map", "bos_token_id", "classifier_dropout",
    "cls_token_id", "decoder_start_token_id", "directionality", "dtype", "eos_token_id", "esmfold_config",
    "finetuning_task", "gradient_checkpointing", "hidden_dropout_prob", "id2label", "initializer_range", "label2id",
    "language", "mask_token_id", "model_type", "num_labels", "output_attentions", "output_hidden_states",
    "pad_token_id", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head",
    "pooler_type", "problem_type", "sep_token_id", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class",
    "torch_dtype", "transformers_version", "use_cache", "vocab_list",
    # The recurrent head of DNABERT's fine-tuning code.
    "num_rnn_layer", "rnn", "rnn_dropout", "rnn_hidden", "split",
    # Sampling and beam search, which old DNABERT configurations spell out.
    "do_sample", "eos_token_ids", "length_penalty", "max_length", "num_beams", "num_return_sequences",
    "output_past", "pruned_heads", "repetition_penalty", "temperature", "top_k", "top_p", "torchscript",
    "use_bfloat16",
))  # fmt: skip


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises InputError for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: a JSON {type(content).__name__}, expected an object")
    return content


def read_config(folder: Path, defaults: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The options over the family's defaults.

    `allowed` names the values of every option that changes the computation. Raises InputError for another value, an
    option that is neither there nor known to change nothing, and a missing size.
    """
    file = folder / "config.json"
    config = read_json(file)
    config = {**defaults, **config}
    for option, value in config.items():
        if option in allowed:
            if value not in allowed[option]:
                raise InputError(f"{file}: {option} {value!r} is not supported; allowed: {allowed[option]}")
        elif option not in INERT and option not in (*SIZES, "layer_norm_eps", "max_position_embeddings", *defaults):
            raise InputError(f"{file}: option {option} ({value!r}) is not known; it may change the activations")
    for size in (*SIZES, "max_position_embeddings"):
        if not isinstance(config.get(size), int) or config[size] < 1:
            raise InputError(f"{file}: {size} is {config.get(size)!r}, expected a positive integer")
    if config["hidden_size"] % config["num_attention_heads"]:
        heads = config["num_attention_heads"]
        raise InputError(f"{file}: hidden_size {config['hidden_size']} is not a multiple of {heads} heads")
    for option in ("layer_norm_eps", "pad_token_id"):
        if option not in config:
            raise InputError(f"{file}: {option} is missing")
    return config
