"""Heads of pre-training: logits of every layer are those of transformers, losses of NTv3 and SpliceAI their own."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from covjax import encoders
from covjax.encoders.checks import HeadedEncoder, through_head
from covjax.errors import InputError
from tests import test_ntv3, test_spliceai
from tests.encoders.test_families import TEXTS, assert_near, peer_folder, torch, transformers

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves

# Variant of test_families: the class with the head, options.
HEADS = {
    "roberta": ("RobertaForMaskedLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
    "llama": ("LlamaForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", {"final_logit_softcapping": 0.5}),
    "gemma3": ("Gemma3ForCausalLM", {}),
}


def assert_heads_logits(ours, peer):
    assert isinstance(ours, HeadedEncoder)
    assert ours.has_head
    tokens, mask, pool = encoders.tokenize(ours, TEXTS, 16)
    inputs, targets, counted = ours.objective(tokens, mask, pool, np.random.default_rng(0))
    assert counted.any(1).all()
    assert not (counted & ~mask).any()
    if ours.causal:
        np.testing.assert_array_equal(inputs, tokens)
        np.testing.assert_array_equal(targets[:, :-1][counted[:, :-1]], tokens[:, 1:][counted[:, :-1]])
    else:
        np.testing.assert_array_equal(inputs[counted], ours.mask_id)
        np.testing.assert_array_equal(targets, tokens)
    given = {"input_ids": torch.tensor(inputs).long(), "attention_mask": torch.tensor(mask).long()}
    with torch.no_grad():
        expected = peer(**given).logits.numpy()
    for layer in range(ours.num_layers):
        found = np.asarray(ours.logits(ours.apply(inputs, mask, (layer,))[layer], mask, layer))
        assert_near(found[mask], expected[mask], message=f"layer {layer}")
    _, loss = through_head(ours, 1, [ours.encode(text) for text in TEXTS])
    x, _ = through_head(ours, 1, [ours.encode(text) for text in TEXTS])
    rows = [np.asarray(each) for each in expected[counted]]
    each = [np.log(np.exp(row - row.max()).sum()) + row.max() - row[t] for row, t in zip(rows, targets[counted])]
    if ours.causal:  # nothing is drawn: the loss is this one
        assert float(loss(x)) == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("variant", HEADS)
def test_logits_of_every_layer_are_those_of_transformers(variant, tmp_path):
    kind, options = HEADS[variant]
    peer = peer_folder(tmp_path, variant, kind, **options)
    assert_heads_logits(encoders.load(tmp_path), peer)


def test_berts_logits_are_those_of_transformers_and_without_the_head_it_is_the_same_encoder(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in TEXTS for word in text.split()})]
    config = transformers.BertConfig(**sizes, vocab_size=len(words), max_position_embeddings=40)
    peer = transformers.BertForMaskedLM(config).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    peer.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    ours = encoders.load(tmp_path)
    assert_heads_logits(ours, peer)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    other = {name: array[1:] if name.startswith("cls.") else array for name, array in whole.items()}
    for tensors in ({name: array for name, array in whole.items() if not name.startswith("cls.")}, other):
        save_file(tensors, file)
        bare = encoders.load(tmp_path)
        assert not bare.has_head
        assert bare.weights_digest == ours.weights_digest


def test_a_decoder_without_its_head_says_so(tmp_path):
    peer_folder(tmp_path, "gpt2")
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["GPT2Model"]
    ours = encoders.load(tmp_path)
    assert not ours.has_head
    with pytest.raises(InputError, match="has no head of its pre-training"):
        through_head(ours, -1, [ours.encode(TEXTS[0])])


@pytest.mark.long
def test_ntv3s_head_reads_its_last_layer(tmp_path, rng):
    name, _ = test_ntv3.write(tmp_path / "model", rng)
    ours = encoders.load(name)
    encoded = [ours.encode(sequence) for sequence in ("ACGTACGTAA", "GGTTA")]
    x, loss = through_head(ours, -1, encoded)
    tokens, mask, pool = encoders.tokenize(ours, ("ACGTACGTAA", "GGTTA"), 10)
    inputs, targets, counted = ours.objective(tokens, mask, pool, np.random.default_rng(0))
    logits = np.asarray(ours.token_logits(jnp.asarray(inputs), jnp.asarray(mask)), np.float64)
    each = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    again = np.asarray(ours.logits(ours.apply(inputs, mask, (2,))[2], mask, 2))
    np.testing.assert_allclose(again[pool], logits[pool], rtol=1e-5, atol=1e-5)
    assert np.isfinite(each[counted]).all()
    assert float(loss(x)) > 0
    assert float(loss(0 * x)) != pytest.approx(float(loss(x)), rel=1e-3)
    with pytest.raises(InputError, match="layer: 0: the head of .* reads layer 2 alone"):
        through_head(ours, 0, encoded)[1](through_head(ours, 0, encoded)[0])


@pytest.mark.long
def test_spliceais_loss_is_that_of_its_own_classes(tmp_path, rng):
    ours = encoders.load(test_spliceai.write_torch(tmp_path / "w.pt", test_spliceai.random_weights(rng, 1)))
    sequences = ("ACGTNACGTA", "GGGTAAGT")
    x, loss = through_head(ours, -1, [ours.encode(sequence) for sequence in sequences])
    tokens, mask, pool = encoders.tokenize(ours, sequences)
    probabilities = np.asarray(ours.scores(tokens, mask), np.float64)[pool]
    assert float(loss(x)) == pytest.approx(np.mean(-np.log(probabilities.max(-1))), rel=1e-4)
    assert float(loss(0 * x)) > float(loss(x))
    with pytest.raises(InputError, match="layer: 1: the head of .* reads layer 5 alone"):
        ours.logits(np.zeros((1, 4, 32), np.float32), np.ones((1, 4), bool), 1)
