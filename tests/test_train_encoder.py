"""`covjax train encoder`: windows, rivals, the loss, the way back to a folder, and resuming."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from covjax.data.genome import Region
from covjax.encoders import load, ntv3, tokenize
from covjax.encoders.weights import AskedTensors
from covjax.errors import InputError
from covjax.training import encoder as run
from covjax.training.genome import DNA, Windows, base_codes, inside_regions, repeat_weights, reverse_complement
from covjax.training.language import MaskedModel, TwoSided, initial_weights, named_tensors, save_folder, write_texts

NUMBERS, MASK = np.array([6, 8, 9, 7, 10], np.int32), 2  # of A, C, G, T, N and a hidden base
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def random_sequence(rng, length, letters="ACGT"):
    return "".join(rng.choice(list(letters), size=length))


def windows(records, weights=None, inside=None, length=32):
    codes = {name: base_codes(sequence) for name, sequence in records.items()}
    return Windows(codes, weights, inside, length, NUMBERS, MASK)


def test_codes_and_the_other_strand():
    assert base_codes("ACGTacgtNR").tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4]
    text = "AACGTNNT"
    np.testing.assert_array_equal(reverse_complement(base_codes(text)), base_codes(text[::-1].translate(COMPLEMENT)))


@pytest.mark.parametrize(
    ("text", "letter", "place"), [("ACGU", "U", 4), ("AC-T", "-", 3), ("NNLV", "L", 3), ("é", "é", 1)]
)
def test_letters_that_are_no_dna_are_named(text, letter, place):
    with pytest.raises(InputError, match=rf"record 'chr7': '{letter}' at position {place} is not a DNA letter"):
        base_codes(text, "chr7")
    assert base_codes("RYSWKMBDHVryn").tolist() == [4] * 13


def test_a_base_counts_by_how_often_it_stands_in_the_genome():
    rng = np.random.default_rng(0)
    repeat = random_sequence(rng, 60)
    texts = [
        random_sequence(rng, 40) + repeat + random_sequence(rng, 30),
        random_sequence(rng, 50) + repeat[::-1].translate(COMPLEMENT) + "N" + random_sequence(rng, 40),
        "ACGT",
    ]
    copies = collections.Counter()
    for text in texts:
        for i in range(len(text) - 30):
            word = text[i : i + 31]
            copies[min(word, word[::-1].translate(COMPLEMENT))] += "N" not in word
    for text, weights in zip(texts, repeat_weights([base_codes(text) for text in texts]), strict=True):
        assert len(weights) == len(text)
        for i in range(15, len(text) - 15):
            word = text[i - 15 : i + 16]
            count = 1 if "N" in word else copies[min(word, word[::-1].translate(COMPLEMENT))]
            assert weights[i] == np.float32(1 / count)
    assert copies.most_common(1)[0][1] == 2


def test_windows_show_what_is_not_hidden_on_either_strand():
    rng = np.random.default_rng(1)
    text = random_sequence(rng, 300, "ACGTN")
    weights = {"chr1": rng.random(300).astype(np.float32)}
    source = windows({"chr1": text, "short": "ACGT"}, weights, length=48)
    letter = dict(zip(NUMBERS.tolist(), "ACGTN", strict=True))
    strands = set()
    for number in range(6):
        x, w = source.batch(4, 7, number)
        assert (x.shape, w.shape) == ((4, 4, 48), (4, 48))
        for (shown, true, _, sequence), weight in zip(x, w):
            assert (sequence == 1).all()
            window = "".join(letter[i] for i in true.tolist())
            forward = text.find(window)
            start = forward if forward >= 0 else text.find(window[::-1].translate(COMPLEMENT))
            strands.add(forward >= 0)
            own = weights["chr1"][start : start + 48][:: 1 if forward >= 0 else -1]
            hidden = shown == MASK
            np.testing.assert_array_equal(weight, np.where(hidden, own, 0))
            np.testing.assert_array_equal(shown[~hidden], true[~hidden])
            assert not hidden[true == NUMBERS[4]].any()
            assert hidden.any()
    assert strands == {True, False}
    for again, first in zip(source.batch(4, 7, 3), source.batch(4, 7, 3)):
        np.testing.assert_array_equal(again, first)
    assert (source.batch(4, 7, 3)[0] != source.batch(4, 7, 4)[0]).any()


def test_every_start_of_every_record_can_be_drawn():
    source = windows({"a": "A" * 33, "b": "C" * 32, "c": "G" * 34}, length=32)
    true = np.concatenate([source.batch(64, 0, number)[0][:, 1] for number in range(4)])
    counts = collections.Counter(map(int, true[:, 0]))
    by_base = [counts[int(NUMBERS[i])] + counts[int(NUMBERS[3 - i])] for i in (0, 1)]  # A and T: a; C and G: b, c
    assert len({*map(tuple, true)}) == 4  # a and its strand; b and c, each the other's letters
    assert by_base[0] / sum(by_base) == pytest.approx(2 / 6, abs=0.1)


def test_held_out_windows_do_not_overlap_and_hide_no_end():
    rng = np.random.default_rng(2)
    text = random_sequence(rng, 330)
    codes = {"chr1": base_codes(text)}
    inside = inside_regions([Region("chr1", 40, 90), Region("other", 0, 9)], codes)
    source = Windows(codes, None, inside, 64, NUMBERS, MASK)
    parts = list(source.held_out(100, 2, 0))
    x, w = (np.concatenate(each) for each in zip(*parts))
    assert len(x) == 5
    expected = np.zeros(330, np.int32)
    expected[40:90] = 1
    np.testing.assert_array_equal(x[:, 2].ravel(), expected[:320])
    np.testing.assert_array_equal(x[:, 1].ravel(), NUMBERS[base_codes(text)[:320]])
    assert not w[:, [*range(5), *range(-5, 0)]].any()
    assert w.any(1).all()
    with pytest.raises(InputError, match="length: 400 is more than the longest record has, 330"):
        Windows(codes, None, None, 400, NUMBERS, MASK)


def test_two_sided_models_against_counting_by_hand():
    rng = np.random.default_rng(3)
    text = random_sequence(rng, 400, "ACGTTN")
    codes = base_codes(text)
    model = TwoSided([codes, reverse_complement(codes)], letters=4, most=2)
    strands = text, text[::-1].translate(COMPLEMENT)
    places = np.array([i for i in range(5, 395) if text[i] != "N"])
    chances = model.chances(codes, places, strength=3.0)
    np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-12)
    for j, place in enumerate(places[:60]):
        p = np.array([sum(s.count(base) for s in strands) for base in "ACGT"], float)
        p = (p + 3 / 4) / (p.sum() + 3)
        for k in range(3):
            if k:
                left, right = text[place - k : place], text[place + 1 : place + k + 1]
                counts = np.zeros(4)
                for s in strands:
                    for i in range(k, len(s) - k):
                        if (
                            s[i] != "N"
                            and "N" not in left + right
                            and (s[i - k : i], s[i + 1 : i + k + 1]) == (left, right)
                        ):
                            counts["ACGT".index(s[i])] += 1
                p = (counts + 3 * p) / (counts.sum() + 3)
            np.testing.assert_allclose(chances[k, j], p, rtol=1e-12)


SMALL = run.EncoderConfig(
    data="x", width=8, blocks=1, heads=2, downsamples=1, length=32, batch=4, steps=6, warmup=1, held_windows=6,
    save_every=2, evaluate_every=3, log_every=1,
)  # fmt: skip


def small_model(folder, seed=0):
    write_texts(folder, DNA.files(SMALL))

    def make(tensors):
        return ntv3.NTv3("start", folder, np.float32, tensors)

    return make, make(AskedTensors(initial_weights(seed)))


@pytest.mark.long
def test_a_model_goes_back_to_the_folder_that_it_would_be_read_from(tmp_path):
    make, model = small_model(tmp_path / "start")
    tensors = named_tensors(make, model)
    again = AskedTensors(initial_weights(0))
    make(again)
    assert tensors.keys() == again.shapes.keys()
    drawn = initial_weights(0)
    for name, shape in again.shapes.items():
        np.testing.assert_array_equal(tensors[name], drawn(name, shape).astype(np.float32))
    save_folder(tmp_path / "saved", DNA.files(SMALL), tensors, np.float32)
    loaded = load(tmp_path / "saved")
    tokens, mask, _ = tokenize(loaded, ["ACGTACGTNNAC"])
    for layer in range(3):
        np.testing.assert_array_equal(
            loaded.apply(tokens, mask, (layer,))[layer], model.apply(tokens, mask, (layer,))[layer]
        )
    given = jnp.asarray(tokens), jnp.asarray(mask)
    np.testing.assert_array_equal(loaded.token_logits(*given), model.token_logits(*given))


def test_more_parameters_than_float32_counts_go_back_too():
    class Large(nnx.Module):
        def __init__(self, tensors):
            self.large = nnx.Param(jnp.asarray(tensors.take("large", 2**12, 2**12 + 1)).T)
            self.small = nnx.Param(jnp.asarray(tensors.take("small", 3)))

    drawn = {"large": np.zeros((2**12, 2**12 + 1), np.float32), "small": np.arange(3, dtype=np.float32)}
    drawn["large"][:, 0] = np.arange(2**12)
    drawn["large"][-1] = np.arange(2**12 + 1)
    tensors = named_tensors(Large, Large(AskedTensors(lambda name, shape: drawn[name])))
    for name, values in drawn.items():
        np.testing.assert_array_equal(tensors[name], values)


def test_a_training_that_diverges_is_stopped(genome):
    with pytest.raises(InputError, match=r"learning_rate: \w+ is \w+ at step \d; lower the rate, or raise --warmup"):
        run.train_encoder(dataclasses.replace(genome, learning_rate=1e38, warmup=0))


@pytest.mark.long
def test_the_loss_against_numpy(tmp_path):
    _, encoder = small_model(tmp_path / "start")
    model = MaskedModel(encoder, "float32")
    rng = np.random.default_rng(4)
    text = random_sequence(rng, 200)
    inside = inside_regions([Region("a", 0, 77)], {"a": base_codes(text)})
    x, w = windows({"a": text}, {"a": rng.random(200).astype(np.float32)}, inside).batch(3, 0, 0)
    x, w = jnp.asarray(x), jnp.asarray(w)
    logits = np.asarray(encoder.token_logits(x[:, 0], jnp.ones(x[:, 0].shape, bool)), np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.log(np.take_along_axis(chances, np.asarray(x[:, 1, :, None]), -1)[..., 0])
    right = logits.argmax(-1) == np.asarray(x[:, 1])
    loss, metrics = model.loss(x, w)
    w = np.asarray(w)
    assert float(loss) == pytest.approx((nats * w).sum() / w.sum(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((right * w).sum() / w.sum(), rel=1e-5)
    sums = np.asarray(model.evaluate(x, jnp.asarray(w)))
    for side in (0, 1):
        at = np.asarray(w * (x[:, 2] == side))
        np.testing.assert_allclose(sums[side], [(nats * at).sum(), (right * at).sum(), at.sum()], rtol=1e-5)
    assert model.summarise(sums)["nats"] == pytest.approx(float(loss), rel=1e-5)


@pytest.fixture
def genome(tmp_path):
    rng = np.random.default_rng(5)
    records = {f"chr{i}": random_sequence(rng, 200, "AAACGT") for i in range(3)}
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    return dataclasses.replace(SMALL, data=str(tmp_path / "g.fa"), holdout="chr2", output=str(tmp_path / "whole"))


def train_and_kill(config, monkeypatch):
    """A training that is killed in its fourth step, after the checkpoint of the second."""

    class Killed(run.Step):
        calls = 0

        def __call__(self, *arguments):
            Killed.calls += 1
            if Killed.calls == 4:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "Step", Killed)
        with pytest.raises(KeyboardInterrupt):
            run.train_encoder(config)


@pytest.mark.long
def test_a_killed_run_ends_as_a_whole_one(genome, tmp_path, monkeypatch):
    genome = dataclasses.replace(genome, snapshots=(0, 2, 3, 6))
    whole = run.train_encoder(genome)
    assert whole["model"]["all"]["bases"] == 18
    assert set(whole["k-mers"]) == {*"012345"}
    halves = dataclasses.replace(genome, output=str(tmp_path / "halves"))
    train_and_kill(halves, monkeypatch)
    assert run.train_encoder(halves) == whole
    for folder in ("encoder", "snapshots/0", "snapshots/2", "snapshots/3", "snapshots/6"):
        files = [load_file(tmp_path / name / folder / "model.safetensors") for name in ("whole", "halves")]
        assert files[0].keys() == files[1].keys()
        for name, tensor in files[0].items():
            np.testing.assert_array_equal(tensor, files[1][name])
    start = initial_weights(0)
    fresh = ntv3.NTv3("start", tmp_path / "whole" / "start", np.float32, AskedTensors(start))
    untrained = load(str(tmp_path / "whole" / "snapshots" / "0"))
    leaves = [jax.tree.leaves(nnx.state(model, nnx.Param)) for model in (fresh, untrained)]
    assert all((a.astype(jnp.bfloat16) == b.astype(jnp.bfloat16)).all() for a, b in zip(*leaves, strict=True))
    (tmp_path / "whole" / "snapshots" / "2").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"snapshots: 2 is not in .*, and the run is at step 6 already; leave it out"):
        run.train_encoder(genome)
    assert any((start(name, t.shape) != t).any() for name, t in files[0].items() if t.ndim > 1)


@pytest.mark.long
def test_snapshots_are_of_this_training(genome, tmp_path):
    """Those of another one go with it; files of others stay."""
    folder = tmp_path / "whole"
    run.train_encoder(dataclasses.replace(genome, snapshots=(0, 2, 2)))
    weights = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    assert sorted(str(path.parent.relative_to(folder)) for path in weights) == ["encoder", "snapshots/0", "snapshots/2"]
    (folder / "encoder" / "README.md").write_text("a model")
    run.train_encoder(dataclasses.replace(genome, snapshots=(2, 6)))  # 6 is where the run stands
    assert {path: path.read_bytes() for path in weights} == weights
    assert (folder / "snapshots" / "6" / "model.safetensors").read_bytes() == weights[
        folder / "encoder" / "model.safetensors"
    ]
    other = dataclasses.replace(genome, seed=1)
    run.train_encoder(other, force=True)
    assert (folder / "encoder" / "README.md").read_text() == "a model"
    assert not (folder / "snapshots").exists()
    (folder / "snapshots" / "2").mkdir(parents=True)
    with pytest.raises(InputError, match="snapshots: 2 is not in"):
        run.train_encoder(dataclasses.replace(other, snapshots=(2,)))


def test_no_snapshot_of_a_training_that_diverges(genome, tmp_path):
    config = dataclasses.replace(genome, learning_rate=1e38, warmup=0, snapshots=(0, 1, 2, 3, 4, 5), log_every=9)
    with pytest.raises(InputError, match=r"learning_rate: \w+ is \w+ at step \d; lower the rate"):
        run.train_encoder(config)
    for path in (tmp_path / "whole" / "snapshots").glob("*/model.safetensors"):
        assert all(np.isfinite(tensor.astype(np.float32)).all() for tensor in load_file(path).values()), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ""}, "data: '' is not allowed"),
        ({"holdout": "chrX"}, "holdout: 'chrX' is not a record of .*it has 'chr0', 'chr1'"),
        ({"holdout": ""}, "holdout: '' leaves nothing"),
        ({"holdout": "chr0,chr1,chr2"}, "leaves nothing to train on"),
        ({"holdout": " chr0,chr1, chr2, chr2"}, "leaves nothing to train on"),
        ({"length": 33}, "length: 33 is not a multiple of 2"),
        ({"heads": 3}, "heads: 8 features cannot be divided by 2 · 3"),
        ({"length": 256}, "length: 256 is more than the longest record"),
        ({"warmup": 7}, "warmup: 7 is not allowed"),
        ({"snapshots": (0, 7)}, "snapshots: 7 is not allowed; 0 to steps, 6"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(genome, change, message):
    with pytest.raises(InputError, match=message):
        run.train_encoder(dataclasses.replace(genome, **change))


def add(genome, text):
    with open(genome.data, "a") as file:
        file.write(text)


def test_records_without_what_is_needed_are_refused_before_the_training(genome):
    add(genome, f">N\n{'N' * 100}\n>ends\nACGTA{'N' * 27}\n")
    with pytest.raises(InputError, match="data: 'N': no A, C, G or T in any record"):
        run.train_encoder(dataclasses.replace(genome, holdout="N"))
    with pytest.raises(InputError, match="data: 'N': no A, C, G or T in any record"):
        run.train_encoder(dataclasses.replace(genome, holdout="chr0,chr1,chr2,ends"))
    with pytest.raises(InputError, match="holdout: no known base is hidden"):
        run.train_encoder(dataclasses.replace(genome, holdout="ends"))


def test_what_is_left_out_is_said(genome, tmp_path, capsys):
    add(genome, f">short\n{'ACGT' * 7}\n")
    genome = dataclasses.replace(genome, regions=str(tmp_path / "r.bed"))
    (tmp_path / "r.bed").write_text("chr2\t0\t9\nX\t5\t10\n")
    read = run.read_corpus(genome)
    assert [*read.train.records] == ["chr0", "chr1"]
    said = capsys.readouterr().err
    assert "left out 1 records shorter than 32 bases: 'short'" in said
    assert "r.bed: left out 1 on 1 chromosomes that are not in" in said
    (tmp_path / "r.bed").write_text("X\t5\t10\n")
    with pytest.raises(InputError, match="line 1: chromosome 'X' is not in .*, nor is any other"):
        run.read_corpus(genome)
    (tmp_path / "r.bed").write_text("chr1\t5\t10\n")
    with pytest.raises(InputError, match="regions: none of .*r.bed lies on a held-out record"):
        run.read_corpus(genome)
    add(genome, ">rna\nACGUACGU\n")
    with pytest.raises(InputError, match="record 'rna': 'U' at position 4 is not a DNA letter; .*; write T for it"):
        run.read_corpus(genome)


def test_the_command_of_two_words(capsys):
    from covjax.command import main

    with pytest.raises(SystemExit) as end:
        main(["train", "encoder", "--help"])
    assert not end.value.code
    assert "covjax train encoder" in capsys.readouterr().out
