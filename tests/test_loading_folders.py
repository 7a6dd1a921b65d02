"""Folders as transformers, the hub and users make them: what decides is read, the rest ignored or named."""

import json

import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import tokenize
from covjax.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RESIDUES = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "dog", "##s", "é", "fox"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 40}
ESM = SIZES | {"vocab_size": 33, "position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 32}
ESM |= {"pad_token_id": 1, "emb_layer_norm_before": False}
BERT = SIZES | {"vocab_size": len(WORDS)}
HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
BERT_HEADS = (*HEADS, "ForQuestionAnswering", "ForPreTraining", "ForMultipleChoice", "ForNextSentencePrediction")


def made(family, head="Model", **options):
    """A random model of transformers, and the folder's vocabulary."""
    torch.manual_seed(0)
    sizes = (ESM if family == "Esm" else BERT) | options
    model = getattr(transformers, family + head)(getattr(transformers, f"{family}Config")(**sizes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def saved(folder, family, head="Model", **options):
    folder.mkdir(exist_ok=True)
    model = made(family, head, **options)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(RESIDUES if family == "Esm" else WORDS) + "\n")
    return model


def assert_same(folder, model, sequence=None):
    """Every layer of covjax is that of the model."""
    ours = encoders.load(str(folder))
    base = getattr(model, model.base_model_prefix, model)
    tokens, mask, _ = tokenize(ours, [sequence or ("MKTAYX" if "Esm" in type(model).__name__ else "the cats sat")])
    layers = ours.apply(tokens, mask, tuple(range(ours.num_layers)))
    with torch.no_grad():
        out = base(torch.tensor(tokens).long(), torch.tensor(mask).long(), output_hidden_states=True)
    for i, expected in enumerate(out.hidden_states):
        scale = float(expected.std())
        np.testing.assert_allclose(np.asarray(layers[i]) / scale, expected.numpy() / scale, atol=2e-5)
    return ours


FAMILY_HEADS = [("Esm", head) for head in HEADS] + [("Bert", head) for head in BERT_HEADS]


@pytest.mark.parametrize(("family", "head"), FAMILY_HEADS)
def test_every_head_of_transformers_is_beside_the_encoder(tmp_path, family, head):
    model = saved(tmp_path, family, head)
    digest = assert_same(tmp_path, model).weights_digest
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert_same(tmp_path, model)
    base = getattr(model, model.base_model_prefix)
    torch.save(base.state_dict(), tmp_path / "pytorch_model.bin")  # without the prefix
    assert_same(tmp_path, base)
    torch.save(
        model.state_dict() | {"my.head.weight": torch.ones(3), "n": torch.tensor(3)}, tmp_path / "pytorch_model.bin"
    )
    ours = assert_same(tmp_path, model)
    if family == "Bert":  # ESM's frequencies are computed in one file and stored in the other
        assert ours.weights_digest == digest


@pytest.mark.parametrize("family", ["Esm", "Bert"])
def test_an_unknown_tensor_inside_the_encoder_is_named(tmp_path, family):
    model = saved(tmp_path, family, "ForMaskedLM")
    (tmp_path / "model.safetensors").unlink()
    for name in ("encoder.layer.0.adapter.weight", "embeddings.extra.weight", "encoder.layer.7.output.dense.bias"):
        state = model.state_dict() | {f"{family.lower()}.{name}": torch.ones(3)}
        torch.save(state, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match=f"unexpected tensor {name}"):
            encoders.load(str(tmp_path))


def test_keys_that_decide_nothing_are_ignored_whatever_their_name(tmp_path):
    for family in ("Esm", "Bert"):
        model = saved(tmp_path / family, family)
        file = tmp_path / family / "config.json"
        model.config.to_json_file(file, use_diff=False)
        config = json.loads(file.read_text())
        more = {
            "chunk_size_feed_forward": 0,
            "_anything": [1],
            "attn_implementation": "sdpa",
            "key of 2031": {"a": None},
        }
        file.write_text(json.dumps(config | more | {"architectures": None, "auto_map": {"AutoModel": "x.y"}}))
        assert_same(tmp_path / family, model)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("Bert", {"is_decoder": True}, "is_decoder True is not supported"),
        ("Bert", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ("Bert", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("Bert", {"hidden_act": ["gelu"]}, r"hidden_act \['gelu'\]"),
        ("Bert", {"feed_forward_type": "geglu"}, "feed_forward_type 'geglu'"),
        ("Bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ("Bert", {"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12'"),
        ("Bert", {"type_vocab_size": 0}, "type_vocab_size is 0"),
        ("Bert", {"hidden_size": True}, "hidden_size is True"),
        ("Bert", {"hidden_size": 10**12}, "word_embeddings.weight has shape"),
        ("Bert", {"intermediate_size": 10**12}, "intermediate.dense.weight has shape"),
        ("Bert", {"num_hidden_layers": 10**12}, "tensor encoder.layer.2.* is missing"),
        ("Bert", {"max_position_embeddings": 10**15}, "position_embeddings.weight has shape"),
        ("Esm", {"vocab_size": 10**12}, "word_embeddings.weight has shape"),
        ("Esm", {"intermediate_size": 10**12}, "intermediate.dense.weight has shape"),
        ("Esm", {"pad_token_id": 10**9}, "pad_token_id is 1000000000"),
        ("Esm", {"pad_token_id": None}, "pad_token_id is None"),
        ("Esm", {"mask_token_id": None}, "mask_token_id is None; token_dropout needs"),
        ("Esm", {"rope_theta": 5000.0}, "rope_theta 5000.0"),
        ("Esm", {"emb_layer_norm_before": "yes"}, "emb_layer_norm_before 'yes'"),
        ("Esm", {"is_folding_model": True}, "is_folding_model True"),
        ("Esm", {"model_type": {"a": 1}}, r"model_type \{'a': 1\} is not supported"),
    ],
)
def test_what_decides_and_is_not_supported_is_named(tmp_path, family, options, message):
    saved(tmp_path, family)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    with pytest.raises(InputError, match=message):
        encoders.load(str(tmp_path))


def sharded(folder, model, suffix="bin"):
    """Two parts and their index, as transformers writes them."""
    from safetensors.torch import save_file

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stem = "pytorch_model" if suffix == "bin" else "model"
    (folder / "model.safetensors").unlink(missing_ok=True)
    index = {}
    for part in (0, 1):
        file = f"{stem}-0000{part + 1}-of-00002.{suffix}"
        names = list(state)[part::2]
        (torch.save if suffix == "bin" else save_file)({name: state[name] for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder / f"{stem}.{suffix}.index.json", index


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_shards_load_from_folder_and_hub(tmp_path, monkeypatch, suffix, place):
    model = saved(tmp_path / "remote", "Esm", "ForMaskedLM")
    sharded(tmp_path / "remote", model, suffix)
    if place == "hub":
        import fnmatch
        import shutil

        import huggingface_hub

        def fetch(name, allow_patterns):
            assert name == "owner/model"
            (tmp_path / "cache").mkdir(exist_ok=True)
            for file in (tmp_path / "remote").iterdir():
                if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                    shutil.copy(file, tmp_path / "cache")
            return str(tmp_path / "cache")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
        assert encoders.load("owner/model").name == "owner/model"
        assert_same(tmp_path / "cache", model)
    else:
        assert_same(tmp_path / "remote", model)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_an_index_that_is_not_true_is_named(tmp_path, suffix):
    model = saved(tmp_path, "Bert")
    file, index = sharded(tmp_path, model, suffix)
    one, two = sorted(set(index.values()))
    name = next(name for name in index if index[name] == one)

    def refused(message, weight_map):
        file.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InputError, match=message) as caught:
            encoders.load(str(tmp_path))
        assert "\n" not in str(caught.value)

    refused(f"says that {name} is in {two}; it is in {one}", index | {name: two})
    refused(f"says that other is in {two}; it is in no file", index | {"other": two})
    refused("no file part-9.bin", index | {name: "part-9.bin"})
    for bad in ("../x.bin", "/etc/passwd", "", ".."):
        refused("is not the name of a file beside the index", index | {name: bad})
    for bad in ([], {}, "x", {name: 3}):
        refused("not an index of tensors", bad)
    file.unlink()
    with pytest.raises(InputError, match="00001-of-00002.* is a part, and its index is missing"):
        encoders.load(str(tmp_path))
    file.write_text(json.dumps({"weight_map": index}))
    (tmp_path / two).unlink()
    with pytest.raises(InputError, match=f"no file {two}"):
        encoders.load(str(tmp_path))


def test_of_two_layouts_the_one_that_transformers_reads_counts(tmp_path):
    model = saved(tmp_path, "Bert")
    whole = (tmp_path / "model.safetensors").read_bytes()
    other = made("Bert")
    with torch.no_grad():
        other.embeddings.word_embeddings.weight += 1
    sharded(tmp_path, other)
    (tmp_path / "model.safetensors").write_bytes(whole)
    assert_same(tmp_path, model)


TEXTS = ["the cats sat", "The DOGS", "zebra fox é [MASK] the", "new1 the", "foxes"]


def assert_same_words(folder, size):
    saved_config = json.loads((folder / "config.json").read_text())
    assert saved_config["vocab_size"] == size
    ours, theirs = encoders.load(str(folder)), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs(text)["input_ids"], text
    return ours


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("layout", ["json", "both", "txt", "crlf", "repeated", "padded", "added", "added json"])
def test_words_have_transformers_numbers(tmp_path, layout, lower):
    words = [*WORDS, "dog"] if layout == "repeated" else WORDS
    size = {"padded": 24, "added": 16, "added json": 16}.get(layout, len(words))
    saved(tmp_path, "Bert", vocab_size=size)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_bytes(("\r\n" if layout == "crlf" else "\n").join(words).encode())
    options = {"do_lower_case": lower, "strip_accents": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    if layout in ("json", "both", "added json"):
        tokenizer = transformers.BertTokenizer(str(vocabulary), **options)
        if layout == "added json":
            tokenizer.add_tokens(["new1"])
        tokenizer.save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").is_file()
    if layout in ("json", "added json"):
        vocabulary.unlink()
    if layout == "added":
        (tmp_path / "added_tokens.json").write_text(json.dumps({"new1": len(words)}))
    ours = assert_same_words(tmp_path, size)
    assert ("new1" in ours.vocabulary.ids) == layout.startswith("added")


@pytest.mark.parametrize("layout", ["txt", "crlf", "repeated", "padded", "added"])
def test_residues_have_transformers_numbers(tmp_path, layout):
    residues = [*RESIDUES, "M"] if layout == "repeated" else RESIDUES
    size = {"padded": 64, "added": 40}.get(layout, len(residues))
    saved(tmp_path, "Esm", vocab_size=size)
    (tmp_path / "vocab.txt").write_bytes(("\r\n" if layout == "crlf" else "\n").join(residues).encode())
    if layout == "added":
        (tmp_path / "added_tokens.json").write_text(json.dumps({"ZZZ": 33}))
    ours, theirs = encoders.load(str(tmp_path)), transformers.EsmTokenizer.from_pretrained(tmp_path)
    for sequence in ("MKTZZZAY", "MX<mask>A", "ACDEFGHIKLMNPQRSTVWY"):
        assert ours.encode(sequence).tolist() == theirs(sequence)["input_ids"]


def test_residues_of_a_tokenizer_json_alone_have_transformers_numbers(tmp_path):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    model = saved(tmp_path, "Esm")
    (tmp_path / "vocab.txt").unlink()
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(RESIDUES)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens(["<cls>", "<pad>", "<eos>", "<unk>", "<mask>"])
    special = [("<cls>", 0), ("<eos>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A <eos>", special_tokens=special)
    tokenizer.enable_truncation(4)  # what a file asks for must not cut a sequence
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = assert_same(tmp_path, model)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for sequence in ("MKTAY", "MX<mask>A", "ACDEFGHIKLMNPQRSTVWY"):
        assert ours.encode(sequence).tolist() == theirs(sequence, truncation=False)["input_ids"]
    with pytest.raises(InputError, match="token 3, '<unk>', is not in the model's vocabulary|token 3, 'J'"):
        ours.encode("MKJA")
    _, mask, pool = tokenize(ours, ["MKA"])
    assert (mask.sum(), pool.sum()) == (5, 3)


@pytest.mark.parametrize("family", ["Esm", "Bert"])
def test_vocabularies_that_cannot_be_are_named(tmp_path, family):
    saved(tmp_path, family)
    words, file = (RESIDUES if family == "Esm" else WORDS), tmp_path / "vocab.txt"

    def refused(message):
        with pytest.raises(InputError, match=message) as caught:
            encoders.load(str(tmp_path))
        assert "\n" not in str(caught.value)

    file.write_text("\n".join([*words, "extra"]))
    refused(f"vocab.txt: {len(words) + 1} tokens, but config.json says vocab_size {len(words)}: too few embeddings")
    file.write_bytes("\n".join(words).encode("utf-16"))
    refused("byte 0 is not UTF-8; save the vocabulary in UTF-8")
    file.write_bytes("\n".join(words).encode() + b"\n\xe9")
    refused("is not UTF-8")
    file.write_text("")
    refused("no token|too few")
    file.write_text("\n".join(words))
    for content in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"model": {"vocab": 3}}',
        b'{"model": {"vocab": {"a": "b"}}}',
        b"[" * 99999,
    ):
        (tmp_path / "tokenizer.json").write_bytes(content)
        refused("tokenizer.json: ")
    other = {word: number for number, word in enumerate([words[1], words[0], *words[2:]])}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": other}}))
    refused("vocab.txt: line [12] is .*, but in tokenizer.json [01] is .*; delete the file that is not the model's")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text('{"new": "7"}')
    refused("added_tokens.json: token 'new' has the number '7'")
    (tmp_path / "added_tokens.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text("[]")
    if family == "Esm":  # a residue model of BERT has no use for it
        refused("tokenizer_config.json: a JSON list, expected an object")
    file.unlink()
    refused("no file vocab.txt, and no tokenizer.json")


def test_a_folder_in_the_place_of_a_file_and_an_endless_name_are_named(tmp_path):
    saved(tmp_path, "Bert")
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="no config.json in the folder"):
        encoders.load(str(tmp_path))
    with pytest.raises(InputError, match=r"x \.\.\. .*is not known") as caught:
        encoders.load("x" * 100_000)
    assert len(str(caught.value).partition("is not known")[0]) < 200  # behind it stand the names, those of tests too


def test_a_changed_weight_file_has_another_digest(tmp_path):
    saved(tmp_path, "Bert")
    first = encoders.load(str(tmp_path)).weights_digest
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert encoders.load(str(tmp_path)).weights_digest != first


def test_a_mask_that_takes_the_space_before_it_is_a_mask(tmp_path):
    model = saved(tmp_path, "Bert")
    mask = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask}))
    ours = assert_same(tmp_path, model, "the [MASK] sat")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("the [MASK] sat").tolist() == theirs("the [MASK] sat").input_ids == [2, 5, 4, 7, 3]


@pytest.mark.parametrize("options", [{"cls_token": "the", "sep_token": "cat"}, {"unk_token": "dog"}])
def test_a_tokenizer_that_frames_in_another_way_is_refused(tmp_path, options):
    saved(tmp_path, "Bert")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | options))
    with pytest.raises(InputError, match=r"its tokenizer frames a text by .*supported: \[CLS\], \[SEP\] and \[UNK\]"):
        encoders.load(str(tmp_path))


def test_learned_positions_counted_from_another_padding_token_are_refused(tmp_path):
    saved(tmp_path, "Esm", position_embedding_type="absolute", pad_token_id=0)
    with pytest.raises(InputError, match="pad_token_id is 0, but <pad> is token 1"):
        encoders.load(str(tmp_path))
