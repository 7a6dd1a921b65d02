"""Nucleotide Transformer v2 against a float64 NumPy reference written from the published architecture; its 6-mers."""

import itertools
import json

import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import tokenize
from covjax.errors import InputError

VOCABULARY = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"]
VOCABULARY += [*map("".join, itertools.product("ATCG", repeat=6)), *"ATCGN"]
D, INNER, HEADS, BLOCKS, EPS = 16, 24, 2, 2, 1e-12
CONFIG = {"model_type": "esm", "hidden_size": D, "intermediate_size": INNER, "num_attention_heads": HEADS}
CONFIG |= {"num_hidden_layers": BLOCKS, "vocab_size": len(VOCABULARY), "pad_token_id": 1, "mask_token_id": 2}
CONFIG |= {"add_bias_fnn": False, "position_embedding_type": "rotary", "token_dropout": False, "layer_norm_eps": EPS}
CONFIG |= {"emb_layer_norm_before": False, "max_position_embeddings": 2050, "tie_word_embeddings": False}
CONFIG |= {"architectures": ["EsmForMaskedLM"], "is_folding_model": False, "vocab_list": None}
SEQUENCES = ["ACGTACGGNTTACCCATG", "A", "ACGTTTGGGAAAC"]


def write_folder(folder, rng, head=False):
    from safetensors.numpy import save_file

    shapes = {"embeddings.word_embeddings.weight": (len(VOCABULARY), D)}
    shapes |= dict.fromkeys(("encoder.emb_layer_norm_after.weight", "encoder.emb_layer_norm_after.bias"), (D,))
    for i in range(BLOCKS):
        at = f"encoder.layer.{i}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{at}.{part}.weight": (D, D), f"{at}.{part}.bias": (D,)}
        for norm in ("attention.LayerNorm", "LayerNorm"):
            shapes |= {f"{at}.{norm}.weight": (D,), f"{at}.{norm}.bias": (D,)}
        shapes |= {f"{at}.intermediate.dense.weight": (2 * INNER, D), f"{at}.output.dense.weight": (D, INNER)}
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    heads = {"dense.weight": (D, D), "dense.bias": (D,), "layer_norm.weight": (D,), "layer_norm.bias": (D,)}
    heads = {f"lm_head.{n}": np.ones(s, np.float32) for n, s in (heads | {"bias": (len(VOCABULARY),)}).items() if head}
    save_file({f"esm.{name}": w for name, w in weights.items()} | heads, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return {name: w.astype(np.float64) for name, w in weights.items()}


def reference(weights, ids):
    """All layers of one sequence without padding, in float64."""

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    half = D // HEADS // 2
    angle = np.arange(len(ids))[:, None, None] * 10000.0 ** (-np.arange(half) / half)

    def rotate(x):
        pair = x[..., :half] + 1j * x[..., half:]
        turned = pair * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], -1)

    x = weights["embeddings.word_embeddings.weight"][ids]
    layers = [x]
    for i in range(BLOCKS):
        at = f"encoder.layer.{i}"
        h = norm(x, f"{at}.attention.LayerNorm")
        q, k, v = (dense(h, f"{at}.attention.self.{p}").reshape(len(ids), HEADS, -1) for p in ("query", "key", "value"))
        scores = np.einsum("qhc,khc->hqk", rotate(q), rotate(k)) / np.sqrt(D // HEADS)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khc->qhc", shares / shares.sum(-1, keepdims=True), v).reshape(len(ids), D)
        x = x + dense(mixed, f"{at}.attention.output.dense")
        up = dense(norm(x, f"{at}.LayerNorm"), f"{at}.intermediate.dense")
        gate, value = up[:, :INNER], up[:, INNER:]
        x = x + dense(gate / (1 + np.exp(-gate)) * value, f"{at}.output.dense")
        layers.append(x)
    return [*layers[:-1], norm(x, "encoder.emb_layer_norm_after")]


def test_every_layer_equals_the_reference(tmp_path, rng):
    weights = write_folder(tmp_path, rng)
    ours = encoders.load(str(tmp_path))
    tokens, mask, _ = tokenize(ours, SEQUENCES, 14)
    layers = ours.apply(tokens, mask, tuple(range(BLOCKS + 1)))
    for row, sequence in enumerate(SEQUENCES):
        for i, expected in enumerate(reference(weights, ours.encode(sequence))):
            np.testing.assert_allclose(
                np.asarray(layers[i])[row][mask[row]] / expected.std(), expected / expected.std(), atol=2e-5
            )


def test_six_mers_single_letters_behind_and_around_n_and_cls_alone(tmp_path, rng):
    write_folder(tmp_path, rng)
    ours = encoders.load(str(tmp_path))
    words = ["<cls>", "ACGTAC", "G", "G", "N", "TTACCC", "A", "T", "G"]
    assert [VOCABULARY[i] for i in ours.encode(SEQUENCES[0])] == words
    assert tokenize(ours, SEQUENCES[:1])[2][0].tolist() == [False] + [True] * 8
    assert not ours.vocabulary.letters  # its letters may be part of a 6-mer
    assert len(ours.encode("ACGTTG" * 41 + "ACGTT")) == 47  # the count the authors' tokenizer gives for 251 bases
    with pytest.raises(InputError, match="token 2, 'R', is not in the model's vocabulary"):
        ours.encode("ACGTACRAC")
    with pytest.raises(InputError, match="token 1, 'a'.*write it in upper case|token 1, 'acgtac'.*upper case"):
        ours.encode("acgtac")


def test_tokenizer_config_decides_on_the_end_token(tmp_path, rng):
    write_folder(tmp_path, rng)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<cls>", "eos_token": "<eos>"}))
    assert [VOCABULARY[i] for i in encoders.load(str(tmp_path)).encode("ACGTAC")] == ["<cls>", "ACGTAC", "<eos>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<cls>", "eos_token": None}))
    assert [VOCABULARY[i] for i in encoders.load(str(tmp_path)).encode("ACGTAC")] == ["<cls>", "ACGTAC"]
