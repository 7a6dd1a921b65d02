"""ESM-C (ESM Team 2024) in the Hugging Face layout: Llama's names, layer norms, both directions.

Queries and keys are normalised over all heads at once; attention and MLP are divided by sqrt(layers / 36).
"""

from pathlib import Path
from typing import Any

from covjax.encoders.llama import BUFFERS, NAMES, PARTS, llama_options, read_llama
from covjax.encoders.rotary import read_rotary
from covjax.encoders.transformer import BlockOptions, Transformer, uniform
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import Tensors, check_multiple

EPS = 1e-5  # of all norms; config.json says none


def esmc(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen encoder of a folder."""
    config = read_llama(folder, {"max_position_embeddings": 2048}, {"layer_types": (None,)}, None)
    check_multiple(folder, config, "num_key_value_heads", "num_attention_heads")  # no groups
    rotary = read_rotary(folder / "config.json", config, config["head_dim"], config["rope_theta"])
    tensors = Tensors(folder, dtype, "esmc", PARTS)
    blocks = uniform(tensors, NAMES, config["num_hidden_layers"], BlockOptions(rotary=rotary))
    options = llama_options(
        config,
        blocks,
        eps=EPS,
        activation=config["hidden_act"],
        norm="layer",
        norm_last_bias=False,
        head_norm="whole",
        causal=False,
        branch=(36 / len(blocks)) ** 0.5,
    )
    vocabulary = subword_vocabulary(folder, options.vocabulary, None)
    return Transformer(name, tensors, NAMES, options, vocabulary, BUFFERS)
