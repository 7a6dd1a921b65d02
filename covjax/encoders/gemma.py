"""Gemma 2 and the text models of Gemma 3 (Gemma Team 2024, 2025) in the Hugging Face layout, EmbeddingGemma too.

Llama's blocks with norms (scale 1 + weight) before and after each part, embeddings times the root of their width, and
layers that attend to near tokens alone between those that attend to all. Gemma 2 caps scores; Gemma 3 normalises
queries and keys and gives both kinds of layers rotary positions of their own.
"""

import dataclasses
from pathlib import Path
from typing import Any

from covjax.encoders.heads import LanguageModel, decoder_head
from covjax.encoders.layers import ACTIVATIONS
from covjax.encoders.llama import BUFFERS, FULL, NAMES, PARTS, SLIDING, layer_kinds, llama_options, read_llama
from covjax.encoders.rotary import Rotary, read_rotary
from covjax.encoders.transformer import BlockOptions, Transformer
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import Tensors, check_options
from covjax.errors import InputError, shown

DEFAULTS: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "query_pre_attn_scalar": 256}
DEFAULTS |= {"sliding_window": 4096, "num_key_value_heads": 4, "use_bidirectional_attention": None}
GEMMA2: dict[str, Any] = DEFAULTS | {"attn_logit_softcapping": 50.0, "max_position_embeddings": 8192}
GEMMA3: dict[str, Any] = DEFAULTS | {"attn_logit_softcapping": None, "rope_theta": 1e6, "rope_local_base_freq": 10000.0}
GEMMA3 |= {"sliding_window_pattern": 6, "max_position_embeddings": 131_072}
ALLOWED: dict[str, tuple[Any, ...]] = {"hidden_activation": tuple(ACTIVATIONS), "mlp_bias": (False, None)}
ALLOWED |= {"is_causal": (True,)}
OURS = dataclasses.replace(
    NAMES,
    norm_attention_after="post_attention_layernorm",
    norm_mlp="pre_feedforward_layernorm",
    norm_mlp_after="post_feedforward_layernorm",
)


def gemma2(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder; every second layer, the first among them, attends to near tokens alone."""
    config = read_llama(folder, GEMMA2, ALLOWED | {"use_bidirectional_attention": (None, False)})
    rotary = read_rotary(folder / "config.json", config, config["head_dim"], config["rope_theta"])
    return _decoder(name, folder, dtype, config, 2, {FULL: rotary, SLIDING: rotary})


def gemma3(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder, or the encoder, where `use_bidirectional_attention` says so (EmbeddingGemma)."""
    # Transformers never caps Gemma 3's scores, whatever the config says; a model that did would not be this one.
    own = {"use_bidirectional_attention": (None, True, False), "attn_logit_softcapping": (None,)}
    config = read_llama(folder, GEMMA3, ALLOWED | own)
    file, head, pattern = folder / "config.json", config["head_dim"], config["sliding_window_pattern"]
    check_options(file, config, {}, ["sliding_window_pattern"], None)
    far = read_rotary(file, config, head, config["rope_theta"], layer=FULL)
    # Scaling for longer contexts, as files before transformers 5 say it, is of the layers that attend to all.
    plain = {**config, "rope_scaling": None}
    near = read_rotary(file, plain, head, config["rope_local_base_freq"], layer=SLIDING)
    return _decoder(name, folder, dtype, config, pattern, {FULL: far, SLIDING: near}, head_norm="head")


def _decoder(
    name: str, folder: Path, dtype: Any, config: dict[str, Any], pattern: int, rotary: dict[str, Rotary], **more: Any
) -> Transformer:
    tensors, file = Tensors(folder, dtype, "model", PARTS), folder / "config.json"
    cap, scalar = config["attn_logit_softcapping"], config["query_pre_attn_scalar"]
    for key, value in {"attn_logit_softcapping": cap or 1.0, "query_pre_attn_scalar": scalar}.items():
        if type(value) not in (int, float) or not value > 0:
            raise InputError(f"{file}: {key} is {shown(value)}, expected a positive number")
    tensors.check_blocks(OURS.block, config["num_hidden_layers"])
    kinds = layer_kinds(
        folder, config, [SLIDING if (i + 1) % pattern else FULL for i in range(config["num_hidden_layers"])]
    )
    causal, window = not config["use_bidirectional_attention"], config["sliding_window"] or 1
    reach = {FULL: None, SLIDING: window - 1 if causal else window // 2}
    options = llama_options(
        config,
        tuple(BlockOptions(rotary=rotary[kind], reach=reach[kind], scale=scalar**-0.5) for kind in kinds),
        eps=config["rms_norm_eps"],
        activation=config["hidden_activation"],
        norm="rms1",
        causal=causal,
        cap=cap,
        words_scale=config["hidden_size"] ** 0.5,
        **more,
    )
    vocabulary = subword_vocabulary(folder, options.vocabulary, config["max_position_embeddings"])
    head = decoder_head(config, tied=True, cap=config.get("final_logit_softcapping")) if causal else None
    return LanguageModel(name, tensors, OURS, options, vocabulary, BUFFERS, head=head)
