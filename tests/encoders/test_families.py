"""Every family against transformers' PyTorch class on random small models: layers, attention, padding, bfloat16."""

import functools
import importlib
import inspect
import json

import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import tokenize
from covjax.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran", "far", "off", "A"]
TEXTS = ["the cat sat on the mat the dog ran far off", "the dog ran"]
# Special tokens in the order of their numbers, and what stands around a text.
FRAMES = {
    "bert": (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "[CLS] $A [SEP]"),
    "roberta": (["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<s> $A </s>"),
    "eos": (["<pad>", "</s>", "<unk>"], "$A </s>"),
    "bos": (["<pad>", "<eos>", "<bos>", "<unk>"], "<bos> $A"),
    "plain": (["<|endoftext|>"], "$A"),
    "bytes": (["<|endoftext|>"], "$A"),
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 40}
T5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 20}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 20}
WINDOW = {"sliding_window": 4, "max_window_layers": 1}
GEMMA = {"num_key_value_heads": 2, "head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 9}
GEMMA |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
BOTH = {"full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0}}
BOTH |= {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
OWN_SIZES = ("dim", "d_model", "n_embd")  # families that name their sizes otherwise
# Name: class, frame, options of its config.
VARIANTS = {
    "roberta": ("Roberta", "roberta", {}),
    "roberta gelu_new": ("Roberta", "roberta", {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", "roberta", {}),
    "camembert": ("Camembert", "roberta", {}),
    "distilbert": ("DistilBert", "bert", {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24}),
    "distilbert relu": (
        "DistilBert",
        "bert",
        {"dim": 16, "n_layers": 1, "n_heads": 4, "hidden_dim": 24, "activation": "relu"},
    ),
    "mpnet": ("MPNet", "roberta", {}),
    "t5": ("T5", "eos", {**T5, "feed_forward_proj": "gated-gelu"}),
    "t5 plain": ("T5", "eos", {**T5, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 8}),
    "gpt2": ("GPT2", "plain", GPT2),
    "gpt2 scaled by layer": ("GPT2", "bos", {**GPT2, "scale_attn_by_inverse_layer_idx": True, "n_inner": 24}),
    "gpt_neox": ("GPTNeoX", "plain", {"hidden_size": 32, "rotary_pct": 0.5}),
    "gpt_neox serial": (
        "GPTNeoX",
        "plain",
        {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0},
    ),
    "llama": ("Llama", "bos", {"num_key_value_heads": 2}),
    "llama 3": ("Llama", "bos", {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "llama linear": ("Llama", "bos", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}}),
    "llama yarn": ("Llama", "bos", {"rope_parameters": YARN, "head_dim": 16}),
    "llama both ways": ("Llama", "bos", {"num_key_value_heads": 2, "is_causal": False}),
    "qwen3 both ways": ("Qwen3", "plain", {"num_key_value_heads": 2, "head_dim": 8, "is_causal": False}),
    "mistral": ("Mistral", "bos", {"sliding_window": 3, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", "bytes", {"num_key_value_heads": 2}),
    "qwen2 window": ("Qwen2", "bytes", {"num_key_value_heads": 2, "use_sliding_window": True, **WINDOW}),
    "qwen3": ("Qwen3", "plain", {"num_key_value_heads": 2, "head_dim": 8, "use_sliding_window": True, **WINDOW}),
    "gemma2": ("Gemma2", "bos", {**GEMMA, "attn_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3Text", "bos", {**GEMMA, "rope_parameters": BOTH}),
    "gemma3 both ways": ("Gemma3Text", "bos", {**GEMMA, "use_bidirectional_attention": True}),
    "modernbert": ("ModernBert", "bert", {"local_attention": 4, "num_hidden_layers": 4}),
    "modernbert biased": ("ModernBert", "bert", {"norm_bias": True, "attention_bias": True, "mlp_bias": True}),
    "esmc": ("Esmc", "roberta", {}),
}


PACKED = ("roberta", "mpnet", "t5", "gpt2", "qwen3", "gemma3", "modernbert")


def write_tokenizer(folder, frame):
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    special, template = FRAMES[frame]
    ids = {word: number for number, word in enumerate([*special, *WORDS])}
    unknown = next((token for token in special if "unk" in token.lower()), special[0])
    if frame == "bytes":  # transformers' own class of the family, which reads merges of bytes alone
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(TEXTS, trainer)
        ids = tokenizer.get_vocab()
    else:
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template != "$A":
        around = [(token, ids[token]) for token in template.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    parts = {
        "unk": unknown.lower(),
        "pad": "pad",
        "bos": "bos <s>",
        "eos": "eos </s> endoftext",
        "cls": "cls",
        "sep": "sep",
    }
    roles = {}
    for role, names in {**parts, "mask": "mask"}.items():
        for token in special:
            if any(name in token.lower() for name in names.split()):
                roles[f"{role}_token"] = token
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    if frame == "bert":
        (folder / "vocab.txt").write_text("\n".join(ids))
    return ids


def peer_folder(folder, variant, kind=None, **more):
    family, frame, options = VARIANTS[variant]
    ids = write_tokenizer(folder, frame)
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")
    pads = {"pad_token_id": next((ids[token] for token in ids if "pad" in token.lower()), None)}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"max_position_embeddings": 40} if any(name in options for name in OWN_SIZES) else SIZES
    config = config(**{**pads, **ends, **sizes, **options, **more, "vocab_size": len(ids)})
    kind = kind or {"T5": "T5EncoderModel", "Gemma3Text": "Gemma3TextModel"}.get(family, f"{family}Model")
    model = getattr(transformers, kind)._from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():  # biases and norms start at 0 and 1; a swap of two would not show
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


@functools.cache
def cached(variant, root):
    """Folder, peer, ours, tokens, mask, and all layers of ours."""
    folder = root / variant.replace(" ", "-")
    folder.mkdir()
    model = peer_folder(folder, variant)
    ours = encoders.load(folder)
    tokens, mask, pool = tokenize(ours, TEXTS, 16)
    assert pool.sum(1).tolist() == [len(text.split()) for text in TEXTS]
    return folder, model, ours, tokens, mask, ours.apply(tokens, mask, tuple(range(ours.num_layers)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


def assert_near(found, expected, tolerance=2e-5, message=""):
    """Within the tolerance, in standard deviations of what is expected."""
    scale = expected.std()
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=tolerance, err_msg=message)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_and_map_equals_transformers(variant, root):
    _, model, ours, tokens, mask, layers = cached(variant, root)
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask).long()}
        peer = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert ours.num_layers == len(peer.hidden_states) == len(peer.attentions) + 1
    for i, expected in enumerate(peer.hidden_states):
        assert_near(layers[i][mask], expected.numpy()[mask], message=f"layer {i}")
    numbers = tuple(range(1, ours.num_layers))
    states, maps = ours.apply(tokens, mask, numbers, attention=True)
    for i, expected in enumerate(peer.attentions, start=1):
        np.testing.assert_allclose(states[i], layers[i], rtol=1e-5, atol=1e-5)  # another program
        for row, own in enumerate(mask):
            np.testing.assert_allclose(maps[i][row][:, own], expected.numpy()[row][:, own], atol=2e-5)
            assert not np.asarray(maps[i])[row][:, ~own].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_left_padding_gives_the_same(variant, root):
    _, _, ours, tokens, mask, layers = cached(variant, root)
    order = np.argsort(mask, axis=1, kind="stable")
    own = np.take_along_axis(mask, order, 1)
    left = ours.apply(np.take_along_axis(tokens, order, 1), own, tuple(layers))
    for layer, expected in layers.items():
        assert_near(left[layer][own], expected[mask])


@pytest.mark.parametrize("variant", [name for name in PACKED if name in VARIANTS])
def test_packed_sequences_give_the_same(variant, root):
    _, _, ours, tokens, mask, layers = cached(variant, root)
    short, last = int(mask[1].sum()), ours.num_layers - 1
    row = np.concatenate([tokens[1, :short], tokens[1, :short], tokens[1, short : 16 - short]])[None]
    packed = ours.apply(row, np.repeat([1, 2, 0], [short, short, 16 - 2 * short])[None], (last,))[last][0]
    for part in (packed[:short], packed[short : 2 * short]):
        assert_near(part, layers[last][1, :short])


@pytest.mark.parametrize("variant", [name for name in VARIANTS if " " not in name])
def test_bfloat16_is_near(variant, root):
    folder, _, ours, tokens, mask, layers = cached(variant, root)
    last = ours.num_layers - 1
    half = encoders.load(folder, dtype="bfloat16").apply(tokens, mask, (last,))[last]
    assert half.dtype.name == "bfloat16"
    error = np.asarray(half, np.float32)[mask] - layers[last][mask]
    assert np.sqrt(np.mean(error**2)) <= 0.1 * layers[last][mask].std()  # 8 bits of mantissa, through all blocks


REFUSED = {
    "roberta": {"hidden_act": "relu", "is_decoder": True, "position_embedding_type": "relative_key"},
    "distilbert": {"activation": "tanh", "dim": 15, "n_heads": 0},
    "mpnet": {"relative_attention_num_buckets": 16, "pad_token_id": 0, "hidden_act": "mish"},
    "t5": {"feed_forward_proj": "gated-swish", "d_kv": 0, "layer_norm_epsilon": 2},
    "gpt2": {"activation_function": "tanh", "add_cross_attention": True, "n_head": 3, "is_causal": False},
    "gpt_neox": {
        **{"rope_parameters": {"rope_type": "dynamic"}, "hidden_act": "mish", "num_hidden_layers": 10**12},
        **{"is_causal": False},
    },
    "llama": {"rope_parameters": {"rope_type": "longrope"}, "num_key_value_heads": 3, "rms_norm_eps": None},
    "mistral": {"sliding_window": 0, "layer_types": ["full_attention"] * 3, "is_causal": False},
    "gemma2": {"layer_types": ["chunked_attention"] * 3, "attn_logit_softcapping": "50", "is_causal": False},
    "gemma3": {"attn_logit_softcapping": 50.0, "use_bidirectional_attention": 1.5, "query_pre_attn_scalar": 0},
    "modernbert": {"hidden_activation": "x", "norm_bias": "no", "local_attention": 0.5},
    "esmc": {"num_key_value_heads": 2},
}
NAMED = {"rope_parameters": "rope_type", "num_hidden_layers": r"layers.3.\* is missing"}


@pytest.mark.parametrize(("variant", "option"), [(v, o) for v, options in REFUSED.items() for o in options])
def test_a_value_that_is_not_known_is_refused_by_name(variant, option, root):
    folder, *_ = cached(variant, root)
    file, value = folder / "config.json", REFUSED[variant][option]
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text) | {option: value}))
    try:
        with pytest.raises(InputError, match=NAMED.get(option, option)) as error:
            encoders.load(folder)
        assert str(folder) in str(error.value)
    finally:
        file.write_text(text)


def test_the_embedding_has_no_attention(root):
    _, _, ours, tokens, mask, _ = cached("roberta", root)
    with pytest.raises(InputError, match="layer 0 is the embedding"):
        ours.apply(tokens, mask, (0, 1), attention=True)


def test_no_file_of_a_family_is_long():
    from covjax.encoders.loading import FAMILIES

    for module in {module for module, _ in FAMILIES.values()} - {"covjax.encoders.ntv3", "covjax.encoders.esm"}:
        assert len(inspect.getsource(importlib.import_module(module)).splitlines()) <= 165, module


RESIDUES = "ALGVSERTIDPKFQNYMHWC" + "XBOUZ"


def spiece(pieces):
    """A SentencePiece model of these pieces: field 1 of the model, each with its text in field 1 and a score in 2."""
    message = b""
    for piece in pieces:
        text = piece.encode()
        inner = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x00\x00"
        message += b"\x0a" + bytes([len(inner)]) + inner
    return message + b"\x12\x02\x18\x01"  # the trainer's settings, which nobody reads


def residue_folder(root, name, pieces):
    folder = root / name
    folder.mkdir()
    config = transformers.T5Config(**T5, vocab_size=len(pieces) + 10, feed_forward_proj="gated-gelu")
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


def test_prott5_reads_residues_from_its_sentencepiece_model(root):
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{letter}" for letter in RESIDUES)]
    folder = residue_folder(root, "prott5", pieces)
    (folder / "spiece.model").write_bytes(spiece(pieces))
    ours = encoders.load(folder)
    assert ours.letters == "protein"
    assert ours.max_tokens is None
    x = pieces.index("▁X")
    assert ours.encode("MKUZOBX").tolist() == [pieces.index("▁M"), pieces.index("▁K"), x, x, x, x, x, 1]
    _, mask, pool = tokenize(ours, ["MK", "ACDE"])
    assert pool.sum(1).tolist() == [2, 4]
    assert mask.sum(1).tolist() == [3, 5]
    with pytest.raises(InputError, match="token 2, 'k', is not in the model's vocabulary; write it in upper case"):
        ours.encode("Mk")
    (folder / "added_tokens.json").write_text(json.dumps({"<AA2fold>": 30, "<fold2AA>": 31, "a": 32}))
    assert encoders.load(folder).encode("MK").tolist() == [30, pieces.index("▁M"), pieces.index("▁K"), 1]
    (folder / "spiece.model").write_bytes(spiece(pieces)[:50])
    with pytest.raises(InputError, match="not a SentencePiece model"):
        encoders.load(folder)


def test_ankh_reads_letters_and_replaces_none(root):
    pieces = ["<pad>", "</s>", "<unk>", *RESIDUES, "<extra_id_0>"]
    folder = residue_folder(root, "ankh", pieces)
    vocabulary = [[piece, 0.0] for piece in pieces]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": vocabulary}}))
    ours = encoders.load(folder)
    assert ours.encode("MUX").tolist() == [*map(pieces.index, "MUX"), 1]


def test_a_sentencepiece_model_of_words_names_the_remedy(root):
    folder = residue_folder(root, "words", ["<pad>", "</s>", "<unk>", "▁the"])
    (folder / "spiece.model").write_bytes(spiece(["<pad>", "</s>", "<unk>", "▁the"]))
    with pytest.raises(InputError, match=r"spiece.model without tokenizer.json.*save_pretrained"):
        encoders.load(folder)


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"layer_norm_eps": 1e-2}])
def test_other_options_are_another_encoder(root, change):
    folder, _, ours, *_ = cached("roberta", root)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps(json.loads(text) | change))
    try:
        assert encoders.load(folder).weights_digest != ours.weights_digest
        (folder / "config.json").write_text(json.dumps(json.loads(text) | {"transformers_version": "x"}))
        assert encoders.load(folder).weights_digest == ours.weights_digest
    finally:
        (folder / "config.json").write_text(text)
