"""Folders in the Hugging Face layout with random weights, written without torch."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

RESIDUES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]


def write_bert(
    folder: Path,
    rng: np.random.Generator,
    d: int = 16,
    blocks: int = 2,
    shards: int = 1,
    words: Sequence[str] = RESIDUES,
) -> dict[str, np.ndarray]:
    """A BERT over residues or other words; returns its tensors. Shards are written one by one, one in memory."""
    from safetensors.numpy import save_file

    config = {"model_type": "bert", "hidden_size": d, "num_hidden_layers": blocks, "num_attention_heads": d // 8}
    config |= {"intermediate_size": 4 * d, "vocab_size": len(words), "max_position_embeddings": 40}
    shapes = {"embeddings.word_embeddings.weight": (len(words), d)}
    shapes |= {"embeddings.position_embeddings.weight": (40, d), "embeddings.token_type_embeddings.weight": (2, d)}
    norms = ["embeddings.LayerNorm"]
    for i in range(blocks):
        at = f"encoder.layer.{i}"
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{at}.{part}.weight": (d, d), f"{at}.{part}.bias": (d,)}
        shapes |= {f"{at}.intermediate.dense.weight": (4 * d, d), f"{at}.intermediate.dense.bias": (4 * d,)}
        shapes |= {f"{at}.output.dense.weight": (d, 4 * d), f"{at}.output.dense.bias": (d,)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(words))
    index, names, weights = {}, sorted(shapes), {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        weights = {n: rng.standard_normal(shapes[n], np.float32) * np.float32(0.3) for n in names[shard::shards]}
        save_file(weights, folder / file)
        index |= dict.fromkeys(weights, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return weights
