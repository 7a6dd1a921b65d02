"""Pairs of sequences: features against float64 NumPy, groups, the model that predicts for new pairs, bad input."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, command
from covjax.activations import EncodedTokens, PairTokens
from covjax.activations.pairs import shuffle_sides, sides
from covjax.comparison import compare
from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model
from covjax.data import assign_splits, read_table
from covjax.data.pairs import choose_kind, group_pairs, read_pairs
from covjax.data.splits import assign_folds
from covjax.embedding.fitted import fit_recipe
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from covjax.recipes import get_recipe
from covjax.recipes.pairs import pair_recipes
from tests.test_unirep import random_weights

register_encoder("pair-unirep", lambda dtype: UniRep(random_weights()))
OPTIONS = [
    "--encoder",
    "pair-unirep",
    "--rows",
    "mean,mean_std,covariance,log_covariance,shuffled_covariance,composition",
]
OPTIONS += ["--trained", "", "--resamples", "100", "--penalties", "1e-3,1e-1,1", "--probes", "ridge", "--ranks", "2"]
LETTERS = list("ACDEFGHIKL")


def sequence(rng, length=24):
    return "".join(rng.choice(LETTERS, length))


def variant(rng, reference):
    place = int(rng.integers(len(reference)))
    letter = rng.choice([letter for letter in LETTERS if letter != reference[place]])
    return reference[:place] + letter + reference[place + 1 :]


def tokens_of(sequences):
    tokens = EncodedTokens(UniRep(random_weights()), sequences, 1)
    for _ in tokens.walk("encode"):
        pass
    return [x.astype(np.float64) for x in tokens.kept(np.arange(len(sequences)))]


def covariance(x):
    y = x - x.mean(0)
    whole = y.T @ y / len(x)
    rows, columns = np.triu_indices(len(whole))
    return whole[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))


POOLS = {
    "mean": lambda x: x.mean(0),
    "mean_std": lambda x: np.concatenate([x.mean(0), x.std(0)]),
    "covariance": covariance,
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("window", [0, 3, None])
def test_difference_is_the_pool_of_aligned_tokens_near_the_change(rng, tmp_path, name, window):
    first = [sequence(rng, n) for n in (9, 24, 24, 17)]
    second = [variant(rng, each) for each in first]
    tokens = PairTokens(UniRep(random_weights()), first, second, 1, "difference", window)
    fitted = fit_recipe(get_recipe(name), tokens, np.arange(3), 0, tmp_path, {})
    differences = []
    for a, b, x, y in zip(first, second, tokens_of(first), tokens_of(second)):
        changed = next(i for i, letters in enumerate(zip(a, b)) if letters[0] != letters[1])
        near = np.abs(np.arange(len(a)) - changed) <= (len(a) if window is None else window)
        differences.append((y - x)[near])
    known = np.concatenate(differences[:3])
    mean, deviation = known.mean(0), known.std(0)
    expected = [POOLS[name]((x - mean) / deviation) for x in differences]
    np.testing.assert_allclose(fitted.transform(tokens), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("kind", "window"), [("difference", 3), ("difference", None), ("both", None)])
def test_tokens_of_pairs_are_counted_before_the_encoder_runs(rng, monkeypatch, kind, window):
    first = [sequence(rng, n) for n in (9, 24, 24, 17)]
    tokens = PairTokens(UniRep(random_weights()), first, [variant(rng, each) for each in first], 1, kind, window)
    with monkeypatch.context() as patch:
        patch.setattr(tokens._single, "walk", None)
        median = tokens.median_tokens()
    assert median == np.median([len(tokens.pair(row)) for row in range(4)])


@pytest.mark.parametrize("name", POOLS)
def test_both_is_sum_difference_and_product_of_the_pools_in_either_order(rng, tmp_path, name):
    first, second = ([sequence(rng, n) for n in lengths] for lengths in ((9, 24, 20, 5), (24, 7, 20, 11)))
    recipes = pair_recipes(get_recipe(name))
    encoder = UniRep(random_weights())
    tokens = PairTokens(encoder, first, second, 1, "both")
    fitted = fit_recipe(recipes, tokens, np.arange(3), 0, tmp_path, {})
    xs, ys = tokens_of(first), tokens_of(second)
    known = np.concatenate([*xs[:3], *ys[:3]])
    mean, deviation = known.mean(0), known.std(0)
    expected = []
    for x, y in zip(xs, ys):
        p, q = (POOLS[name]((each - mean) / deviation) for each in (x, y))
        expected.append(np.concatenate([p + q, np.abs(p - q), p * q]))
    np.testing.assert_allclose(fitted.transform(tokens), expected, atol=2e-4, rtol=2e-4)
    swapped = fitted.transform(PairTokens(encoder, second, first, 1, "both"))
    np.testing.assert_allclose(swapped, expected, atol=2e-4, rtol=2e-4)


def test_a_shuffle_stays_within_each_sequence(rng):
    x = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)
    w = jnp.array([1, 1, 1, 1, 0, 1, 1, 1, 0], jnp.float32)
    first, second = sides(w)
    assert np.asarray(first).tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert np.asarray(second).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0]
    mixed = np.asarray(shuffle_sides(x, w, jax.random.key(0)))
    assert not np.array_equal(mixed, x)
    for part in (slice(0, 4), slice(5, 8)):
        np.testing.assert_array_equal(np.sort(mixed[part], 0), np.sort(x[part], 0))


def test_swapped_pairs_near_copies_and_shared_sequences_are_on_one_side(rng):
    a, b, c, d, e, f = (sequence(rng, 40) for _ in range(6))
    apart = [(sequence(rng, 40), sequence(rng, 40)) for _ in range(8)]
    pairs = [(a, b), (b, a), (variant(rng, a), b), (c, d), (e, d), (f, e), *apart]
    made = group_pairs(*zip(*pairs))
    assert len(set(made.groups[:3])) == 1
    assert len(set(made.groups[3:6])) == 1
    assert len(set(made.groups)) == 10
    assert made.warnings == ()
    assert "10 groups of 14 pairs, the largest of 3" in made.text


def test_where_all_pairs_hang_together_only_like_pairs_share_a_group_and_that_is_said(rng):
    hub = sequence(rng, 40)
    others = [sequence(rng, 40) for _ in range(8)]
    pairs = [(hub, each) for each in others] + [(each, hub) for each in others[:3]]
    made = group_pairs(*zip(*pairs))
    assert made.groups[:3].tolist() == made.groups[8:].tolist()
    assert len(set(made.groups)) == 8
    assert "a sequence may be on both sides" in made.warnings[0]
    assert not made.one_family
    family = [(hub, variant(rng, hub)) for _ in range(9)]
    made = group_pairs(*zip(*family, family[0][::-1]))
    assert made.one_family
    assert made.groups[0] == made.groups[9]


def test_the_rule_takes_variants_for_differences_and_all_else_for_both(rng):
    a = sequence(rng)
    assert choose_kind([a], [variant(rng, a)]) == "difference"
    assert choose_kind([a], [a]) == "both"
    assert choose_kind([a], [a[1:]]) == "both"
    assert choose_kind([a], [a[::-1]]) == "both"
    assert choose_kind([a], [a[1:]], "difference") == "difference"


def write(path, rows, header="sequence,sequence_b,label"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def run(folder, rows, *options, header="sequence,sequence_b,label"):
    table = write(folder / "t.csv", rows, header)
    command.main(["compare", "--data", str(table), "--output", str(folder / "run"), *OPTIONS, *options])
    return json.loads((folder / "run" / "results.json").read_text())


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["difference", "both"])
def test_the_model_predicts_for_pairs_what_predictions_csv_says(tmp_path, rng, capsys, kind):
    first = [sequence(rng) for _ in range(90)]
    second = [variant(rng, each) if kind == "difference" else sequence(rng, 9) for each in first]
    rows = [(a, b, f"{(b.count('A') - a.count('A')) + rng.normal() / 9:.3f}") for a, b in zip(first, second)]
    results = run(tmp_path, rows)
    out = capsys.readouterr().out
    assert f"pairs: {kind} (" in out
    assert "test pairs 0 have both sequences in training pairs" in out
    width = {row["label"]: row["num_features"] for row in results["rows"]}
    assert width["covariance"] == (36 if kind == "difference" else 3 * 36)
    assert results["manifest"]["encoder"]["pair"] == kind
    new = write(tmp_path / "new.csv", [row[:2] for row in rows], "sequence,sequence_b")
    to = tmp_path / "p.csv"
    assert command.main(["predict", str(tmp_path / "run" / "model"), str(new), "--to", str(to)]) in (0, None)
    theirs, ours = read(tmp_path / "run" / "predictions.csv"), read(to)
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    numbers = [[float(row["prediction"]) for row in each] for each in (ours, theirs)]
    np.testing.assert_allclose(*numbers, atol=2e-5)
    model = Model.load(tmp_path / "run" / "model")
    with pytest.raises(InputError, match="fitted on pairs of sequences, not on single ones"):
        model.embedder.encode(first[:2])
    with pytest.raises(InputError, match="the model is of pairs, but row 0 is"):
        model.predict(first[:2])
    (tmp_path / "new.fasta").write_text(">a\nMKA\n")
    with pytest.raises(SystemExit):
        command.main(
            ["predict", str(tmp_path / "run" / "model"), str(tmp_path / "new.fasta"), "--to", str(to), "--force"]
        )
    assert "FASTA has one sequence a record, and pairs are needed" in capsys.readouterr().err


def test_of_a_table_splits_keep_swapped_copies_together(tmp_path, rng):
    rows = [(sequence(rng, 40), sequence(rng, 40), str(i % 2)) for i in range(30)]
    rows += [(b, a, label) for a, b, label in rows]
    data = assign_splits(read_table(write(tmp_path / "t.csv", rows, "seq_a,seq_b,label")))
    assert data.splits[:30].tolist() == data.splits[30:].tolist()
    assert set(data.splits) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [("MKA", "MKAA", "1")],
            ["--pair", "difference"],
            "(row2): pair difference needs sequences of one length",
        ),
        ([("MKA", "MKA", "1")], ["--pair", "difference"], "(row2): sequence and sequence_b are equal"),
        ([("MKA", "", "1")], [], "line 2: column 'sequence_b' is empty"),
        ([], ["--pair", "none"], "pair: 'none' is not allowed; auto, difference, both"),
        ([], ["--window", "-1"], "window: -1 is not allowed"),
    ],
)
def test_bad_pairs_are_one_line(tmp_path, capsys, rows, options, message):
    with pytest.raises(SystemExit):
        run(tmp_path, [*rows, ("MKC", "MKD", "0"), ("MKE", "MKF", "1")], *options)
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert "Traceback" not in error


def test_a_table_without_a_second_sequence_is_refused_where_pairs_are_asked_for(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, [("MKC", "0"), ("MKE", "1")], "--pair", "both", header="sequence,label")
    assert "has no column 'sequence_b'" in capsys.readouterr().err
    with pytest.raises(InputError, match="missing column 'sequence_b'"):
        read_pairs(write(tmp_path / "n.csv", [("MKA",)], "sequence"))


def test_folds_by_the_files_groups_keep_swapped_copies_together(tmp_path, rng):
    rows = [(sequence(rng, 40), sequence(rng, 40), str(i % 2), f"g{i}") for i in range(30)]
    rows += [(b, a, label, f"h{group}") for a, b, label, group in rows]
    data = read_table(write(tmp_path / "t.csv", rows, "seq_a,seq_b,label,group"))
    for fold in assign_folds(data, 3):
        assert fold.splits[:30].tolist() == fold.splits[30:].tolist()


@pytest.mark.long
def test_folds_test_every_pair_once_a_repeat_swapped_copies_in_one_fold(tmp_path, rng):
    first, second = ([sequence(rng, length) for _ in range(60)] for length in (24, 9))
    rows = [(a, b, f"{(a.count('A') + b.count('A')) + rng.normal() / 9:.3f}") for a, b in zip(first, second)]
    rows += [(b, a, label) for a, b, label in rows[:20]]
    results = run(tmp_path, rows, "--pair", "both", "--folds", "3", "--repeats", "1")
    lines = sorted(read(tmp_path / "run" / "predictions.csv"), key=lambda line: int(line["id"].removeprefix("row")))
    assert [line["id"] for line in lines] == [f"row{i + 2}" for i in range(80)]
    assert [line["fold"] for line in lines[:20]] == [line["fold"] for line in lines[60:]]
    for place, value in enumerate(results["folds"]["values"]["mean"]["ridge"]["r2"]):
        tested = [line for line in lines if int(line["fold"]) == place + 1]
        truth, mean = np.array([[float(line["truth"]), float(line["prediction_of_mean"])] for line in tested]).T
        assert value == pytest.approx(1 - ((truth - mean) ** 2).sum() / ((truth - truth.mean()) ** 2).sum(), abs=1e-5)


def test_both_columns_are_text_or_none_is(tmp_path):
    rows = [("Hello", "hello world there", "1"), ("Yes", "no and no", "0")]
    data = read_table(write(tmp_path / "t.csv", rows))
    assert (data.sequences, data.partners) == (("Hello", "Yes"), ("hello world there", "no and no"))
    assert data.is_text


def test_pairs_are_not_retrieved(tmp_path, rng):
    rows = [(sequence(rng), sequence(rng), str(i % 2)) for i in range(30)]
    config = CompareConfig(
        data=str(write(tmp_path / "t.csv", rows)),
        encoder="pair-unirep",
        protocol="retrieval",
        output=str(tmp_path / "o"),
    )
    with pytest.raises(InputError, match="protocol: retrieval of pairs is not defined"):
        compare.compare(config)
