"""`covjax train encoder --kind esm`: rows of proteins, held-out groups, counts, the folder, resuming, bad input."""

import collections
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from covjax.data.letters import RESIDUES, letter_codes
from covjax.encoders import load, tokenize
from covjax.encoders.esm import VOCABULARY
from covjax.errors import InputError
from covjax.training import encoder as run
from covjax.training.language import MaskedModel, TwoSided
from covjax.training.proteins import REACH, Proteins
from tests.test_train_encoder import train_and_kill

MASK, CLS, PAD, EOS = (VOCABULARY.index(f"<{name}>") for name in ("mask", "cls", "pad", "eos"))
SMALL = run.EncoderConfig(
    data="x", kind="esm", holdout="0.2", width=8, blocks=2, heads=2, length=48, batch=4, steps=6, warmup=1,
    save_every=2, evaluate_every=3, log_every=1,
)  # fmt: skip


def protein(rng, length, letters=RESIDUES):
    return "".join(rng.choice(list(letters), size=length))


def rows(true, sequence):
    """The text of every protein of a batch."""
    for tokens, numbers in zip(true, sequence):
        for number in range(1, numbers.max() + 1):
            yield "".join(VOCABULARY[i] for i in tokens[numbers == number])


def parts(batch):
    x, weights = batch
    return x[:, 0], x[:, 1], x[:, 3], weights


def test_rows_hold_whole_proteins_and_crops_of_long_ones():
    rng = np.random.default_rng(0)
    proteins = [protein(rng, length) for length in (20, 30, 17, 90, 200)]
    source = Proteins(proteins, np.ones(5), 64)
    framed = [f"<cls>{each}<eos>" for each in proteins]
    kinds = collections.Counter()
    for number in range(8):
        shown, true, sequence, weights = parts(source.batch(6, 3, number))
        assert shown.shape == true.shape == sequence.shape == weights.shape == (6, 64)
        np.testing.assert_array_equal(true == PAD, sequence == 0)
        for text in rows(true, sequence):
            kinds[next(i for i, whole in enumerate(framed) if text in whole)] += 1
            if text not in framed:
                assert len(text.replace("<cls>", "c").replace("<eos>", "e")) == 64
        assert (np.diff(sequence, axis=1)[sequence[:, 1:] > 0] <= 1).all()
    assert set(kinds) == {*range(5)}
    for again, first in zip(parts(source.batch(6, 3, 2)), parts(source.batch(6, 3, 2))):
        np.testing.assert_array_equal(again, first)
    assert (source.batch(6, 3, 2)[0] != source.batch(6, 3, 3)[0]).any()
    assert (source.batch(6, 3, 2)[0] != source.batch(6, 4, 2)[0]).any()


def test_residues_are_hidden_replaced_and_shown_as_in_esm():
    rng = np.random.default_rng(1)
    source = Proteins([protein(rng, 60, RESIDUES + "XBUZO") for _ in range(40)], np.ones(40), 128)
    shown, true, _, weights = (np.concatenate(each) for each in zip(*(parts(source.batch(64, 0, i)) for i in range(8))))
    numbers = [VOCABULARY.index(letter) for letter in RESIDUES]
    common = np.isin(true, numbers)
    assert set(np.unique(weights)) == {0, 1}
    assert not weights[~common].any()
    np.testing.assert_array_equal(shown[weights == 0], true[weights == 0])
    asked = weights == 1
    count = int(asked.sum())
    assert count > 5000
    error = lambda share, n: 4 * (share * (1 - share) / n) ** 0.5
    assert asked[common].mean() == pytest.approx(0.15, abs=error(0.15, int(common.sum())))
    hidden = (shown == MASK)[asked]
    other = (shown != true)[asked] & ~hidden
    assert hidden.mean() == pytest.approx(0.8, abs=error(0.8, count))
    assert other.mean() == pytest.approx(0.1 * 19 / 20, abs=error(0.1, count))
    assert set(shown[asked][other]) <= set(numbers)


def test_a_protein_is_drawn_as_often_as_it_should():
    rng = np.random.default_rng(2)
    proteins = [protein(rng, 30, letter) for letter in "ACDE"]
    source = Proteins(proteins, np.array([0.5, 0.5, 1.0, 2.0]), 32)
    true = np.concatenate([source.batch(64, 0, number)[0][:, 1] for number in range(8)])
    counts = np.array([(true[:, 1] == VOCABULARY.index(letter)).sum() for letter in "ACDE"])
    assert counts.sum() == 512
    np.testing.assert_allclose(counts / 512, [1 / 8, 1 / 8, 1 / 4, 1 / 2], atol=0.08)


def test_held_out_proteins_come_once_and_hide_no_end():
    rng = np.random.default_rng(3)
    proteins = [protein(rng, length, RESIDUES + "X") for length in (16, 40, 25, 300, 60, 33, 18)]
    source = Proteins(proteins, np.ones(7), 64)
    batches = [parts(batch) for batch in source.held_out(100, 2, 0)]
    assert all(len(true) <= 2 for _, true, _, _ in batches)
    texts = [text for _, true, sequence, _ in batches for text in rows(true, sequence)]
    whole = {text for text in texts if text.startswith("<cls>") and text.endswith("<eos>")}
    assert whole == {f"<cls>{each}<eos>" for each in proteins if len(each) <= 62}
    assert any(text.removeprefix("<cls>").removesuffix("<eos>") in proteins[3] for text in texts)
    assert len(texts) == 7
    assert sum(weights.sum() for *_, weights in batches) > 0
    for shown, true, sequence, weights in batches:
        np.testing.assert_array_equal(shown == MASK, weights == 1)
        np.testing.assert_array_equal(shown[weights == 0], true[weights == 0])
        for row, at in zip(*np.nonzero(weights)):
            near = slice(at - REACH, at + REACH + 1)
            assert (sequence[row, near] == sequence[row, at]).all()
            assert not np.isin(true[row, near], [CLS, EOS, PAD]).any()
    few = [text for batch in source.held_out(3, 2, 0) for text in rows(*parts(batch)[1:3])]
    assert few[0] == f"<cls>{proteins[0]}<eos>"
    assert len(few) == 3


def test_counts_of_residues_by_hand_do_not_cross_proteins():
    rng = np.random.default_rng(4)
    proteins = [protein(rng, 50, "ACDX") for _ in range(6)]
    codes = [letter_codes(each, RESIDUES, "X", "p", "", {}) for each in proteins]
    joined = np.concatenate([part for each in codes for part in (each, np.array([20], np.int8))])
    model = TwoSided([joined], 20, 1)
    test = codes[0]
    places = np.flatnonzero(test[1:-1] < 20) + 1
    chances = model.chances(test, places, 4.0)
    for j, place in enumerate(places):
        p = (np.array([sum(each.count(letter) for each in proteins) for letter in RESIDUES]) + 4 / 20) / (
            sum(letter != "X" for each in proteins for letter in each) + 4
        )
        np.testing.assert_allclose(chances[0, j], p, rtol=1e-12)
        left, right = proteins[0][place - 1], proteins[0][place + 1]
        triples = collections.Counter(a + b + c for each in proteins for a, b, c in zip(each, each[1:], each[2:]))
        counts = np.array([triples[left + letter + right] for letter in RESIDUES]) * ("X" not in left + right)
        np.testing.assert_allclose(chances[1, j], (counts + 4 * p) / (counts.sum() + 4), rtol=1e-12)


@pytest.fixture
def proteins(tmp_path):
    """Twenty of their own and five near copies of one."""
    rng = np.random.default_rng(5)
    records = {f"p{i}": protein(rng, int(rng.integers(30, 90))) for i in range(20)}
    whole = protein(rng, 80)
    records |= {f"copy{i}": whole[:i] + "W" + whole[i + 1 :] for i in range(20, 25)}
    path = tmp_path / "p.fasta"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    return dataclasses.replace(SMALL, data=str(path), output=str(tmp_path / "whole"))


def members(corpus):
    return [
        {text for i in range(100) for text in rows(*parts(source.batch(4, 0, i))[1:3])}
        for source in (corpus.train, corpus.held)
    ]


def copies(path):
    lines = Path(path).read_text().split("\n")
    return {f"<cls>{text}<eos>" for name, text in zip(lines[::2], lines[1::2]) if "copy" in name}


def test_near_copies_lie_on_one_side_and_the_seed_decides(proteins, capsys):
    wide = dataclasses.replace(proteins, length=96)
    train, held = members(run.read_corpus(wide))
    said = "".join(capsys.readouterr())
    assert len(train | held) == 25
    assert f"{len(train)} proteins to train on (" in said
    assert f"{len(held)} proteins held out (" in said
    assert not train & held
    assert len({side for side, texts in enumerate((train, held)) for text in texts if text in copies(wide.data)}) == 1
    again = members(run.read_corpus(wide))
    assert again == [train, held]
    others = [members(run.read_corpus(dataclasses.replace(wide, seed=seed)))[1] for seed in (1, 2)]
    assert any(other != held for other in others)


def test_packed_proteins_are_scored_as_if_alone(proteins):
    folder = Path(proteins.output)
    run.train_encoder(proteins)
    model = MaskedModel(load(str(folder / "encoder")), "float32")
    rng = np.random.default_rng(6)
    texts = [protein(rng, length) for length in (18, 20)]
    together = next(iter(Proteins(texts, np.ones(2), 48).held_out(2, 1, 0)))
    x, weights = together
    assert x[0, 3].max() == 2
    sums = 0
    for number, text in enumerate(texts, 1):
        own = x[0, 3] == number
        alone = x[:, :, own].copy()
        alone[:, 3] = 1
        sums += np.asarray(model.evaluate(jnp.asarray(alone), jnp.asarray(weights[:, own])))
        assert own.sum() == len(text) + 2
        assert weights[:, own].any()
    np.testing.assert_allclose(np.asarray(model.evaluate(jnp.asarray(x), jnp.asarray(weights))), sums, rtol=1e-5)


def test_a_killed_run_ends_as_a_whole_one(proteins, tmp_path, monkeypatch):
    whole = run.train_encoder(proteins)
    assert set(whole["k-mers"]) == {"0", "1", "2"}
    figures = [whole["model"]["all"], *whole["k-mers"].values()]
    assert figures[0]["residues"] > 0
    for each in figures:
        assert each["perplexity"] == pytest.approx(np.exp(each["nats"]))
        assert 0 <= each["accuracy"] <= 1
    halves = dataclasses.replace(proteins, output=str(tmp_path / "halves"))
    train_and_kill(halves, monkeypatch)
    assert run.train_encoder(halves) == whole
    files = [load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("whole", "halves")]
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        np.testing.assert_array_equal(tensor, files[1][name])
    with pytest.raises(InputError, match="holds another run: .*holdout"):
        run.train_encoder(dataclasses.replace(proteins, holdout="0.3"))


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
def test_the_folder_is_what_transformers_reads(proteins):
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, EsmForMaskedLM

    run.train_encoder(proteins)
    folder = Path(proteins.output) / "encoder"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "esm"
    peer, loading = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert all("contact_head" in name or "inv_freq" in name for name in loading["missing_keys"])
    ours = load(str(folder))
    sequences = ["MKTAYIAKQRQISFVKSHFSRQ", "MSXACDEF"]
    tokens, mask, _ = tokenize(ours, sequences, 32)
    given = AutoTokenizer.from_pretrained(folder)(sequences, padding="max_length", max_length=32)["input_ids"]
    np.testing.assert_array_equal(given, tokens)
    tokens[0, 3] = MASK  # so that the rescaling shows
    with torch.no_grad():
        out = peer.eval()(torch.tensor(tokens).long(), torch.tensor(mask).long(), output_hidden_states=True)
    layers = ours.apply(tokens, mask, tuple(range(ours.num_layers)))
    assert ours.num_layers == len(out.hidden_states) == proteins.blocks + 1
    for i, expected in enumerate(out.hidden_states):
        np.testing.assert_allclose(layers[i][mask], expected.numpy()[mask], atol=2e-5, err_msg=f"layer {i}")
    logits = np.asarray(ours.token_logits(jnp.asarray(tokens), jnp.asarray(mask)))
    np.testing.assert_allclose(logits[mask], out.logits.numpy()[mask], atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"holdout": ""}, "holdout: '' is not a share between 0 and 1; .*--holdout 0.05"),
        ({"holdout": "p1,p2"}, "holdout: 'p1,p2' is not a share"),
        ({"holdout": "nan"}, "holdout: 'nan' is not a share"),
        ({"holdout": "1"}, "holdout: '1' is not a share"),
        ({"regions": "r.bed"}, "regions: 'r.bed' is for DNA; leave --regions out"),
        ({"downsamples": 3}, "downsamples: 3 is for --kind ntv3"),
        ({"kind": "bert"}, "kind: 'bert' is not allowed; ntv3 .* or esm"),
        ({"heads": 3}, "heads: 8 features cannot be divided by 2 · 3"),
        ({"kind": "ntv3", "holdout": "p1", "length": 48}, "is not a DNA letter; .*proteins need --kind esm"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(proteins, change, message):
    with pytest.raises(InputError, match=message):
        run.train_encoder(dataclasses.replace(proteins, **change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ">a\nMKTAYIAKQRQISFVKSHJFSRQ\n",
            "record 'a': 'J' at position 19 is not a residue that ESM knows; .*; write X for it",
        ),
        (
            ">a\nMKTAYIAK*RQISFVKSHFSRQ\n",
            r"record 'a': '\*' at position 9 is not a residue .*with a stop inside it out",
        ),
        (">a\nMKTAYIAK-RQISFVKSHFSRQ\n", "a gap '-' at position 9 .*remove the gaps"),
        (f">a\n{'ACGTTGCA' * 20}\n>b\n{'TTGACCAG' * 20}\n", "letters of nucleotides .*--kind ntv3 DNA"),
        (">a\nMKTAYIA\n>b\nMSTEFIL\n", "no protein has 16 residues: 'a', 'b'; give longer ones"),
        (
            f">a\n{'MKTAYIAKQR' * 9}\n>b\n{'MKTAYIAKQR' * 9}\n",
            "all 2 proteins .* near copies .*none is left to hold out",
        ),
    ],
)
def test_proteins_that_cannot_be_read_are_refused(proteins, text, message):
    with open(proteins.data, "w") as file:
        file.write(text)
    with pytest.raises(InputError, match=message):
        run.train_encoder(proteins)


def test_short_proteins_are_left_out_and_stops_removed_and_said(proteins, capsys):
    with open(proteins.data, "a") as file:
        file.write(">short\nMKT\n>stop\nMKTAYIAKQRQISFVKSHFSRQ*\n")
    run.read_corpus(proteins)
    said = "".join(capsys.readouterr())
    assert "left out 1 proteins shorter than 16 residues: 'short'" in said
    assert "the stop '*' removed at the end of 1 of 27 sequences" in said
