"""`--layers`: one pass of the encoder, every row at its own best layer on validation, the test set scored at these."""

import csv
import itertools
import shutil

import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.activations import EncodedTokens
from covjax.comparison import compare, scoring
from covjax.comparison.config import CompareConfig
from covjax.comparison.layers import best_layers
from covjax.comparison.results import Results
from covjax.comparison.source import several_layers
from covjax.comparison.verdict import table
from covjax.embedding import tables
from covjax.embedding_command import predict_main
from covjax.encoders import load, register_encoder
from covjax.encoders.unirep import UniRep
from covjax.jobs.cli import parse
from covjax.jobs.folder import remove_own
from tests.encoders.folders import write_bert
from tests.test_unirep import random_weights

N = 120
SEQUENCES = 0  # that went through the encoder so far


class Counted(UniRep):
    """A UniRep of three layers that counts the sequences it sees."""

    def apply(self, tokens, mask, layers):
        global SEQUENCES
        SEQUENCES += len({row.tobytes() for row in np.asarray(tokens)})  # a last batch is filled up with copies
        return super().apply(tokens, mask, layers)


register_encoder("layered", lambda dtype: Counted(random_weights(layers=3)))
ROWS = ["mean", "sqrt_covariance", "shuffled_covariance", "composition", "mean+sqrt_covariance"]
OPTIONS = {"encoder": "layered", "rows": ROWS, "ranks": [2], "penalties": [1e-3, 1e-1, 1.0], "resamples": 100}
OPTIONS |= {"trained": [], "probes": ["logistic"]}


def write_table(path, n=N):
    rng = np.random.default_rng(0)
    lines = ["id,sequence,label,split"]
    for i in range(n):
        sequence = "".join(rng.choice(list("ACDEFGHIKL"), 9 if i % 2 else 20))
        split = "train" if i < n - 80 else "validation" if i < n - 40 else "test"
        pairs = sum(a in "ACD" and b in "EFG" for a, b in itertools.pairwise(sequence))
        lines.append(f"P{i},M{sequence},{'ab'[pairs > len(sequence) / 12]},{split}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    write_table(folder / "t.csv")
    before = SEQUENCES
    result = covjax.compare(folder / "t.csv", output=folder / "all", layers="all", **OPTIONS)
    return folder, result, SEQUENCES - before


@pytest.fixture(scope="module")
def single(swept):
    """Comparisons of every layer alone."""
    folder = swept[0]
    runs = {}
    for layer in range(3):
        runs[layer] = covjax.compare(folder / "t.csv", output=folder / str(layer), layer=layer, **OPTIONS).results
    return runs


def validation(results):
    return {row.label: row.probes["logistic"].validation for row in results.rows}


@pytest.mark.long
def test_every_sequence_is_encoded_once_for_all_layers(swept):
    _, result, count = swept
    assert result.results.layers == (0, 1, 2)
    assert count == N + 2  # two of them once more, to find out whether the special token sees the sequence


@pytest.mark.long
def test_each_row_has_the_values_of_every_layer_and_takes_its_own_best(swept, single):
    results = swept[1].results
    alone = {layer: validation(each) for layer, each in single.items()}
    for row in results.rows:
        if row.label == "composition":
            assert (row.layer, row.layer_validation) == (None, ())
            continue
        expected = [alone[layer][row.label] for layer in range(3)]
        np.testing.assert_allclose(row.layer_validation, expected, atol=1e-5)
        assert row.layer == int(np.argmax(row.layer_validation))
        assert row.probes["logistic"].validation == row.layer_validation[row.layer]
        other = single[row.layer].by_label[row.label].probes["logistic"].test["mcc"]
        assert row.probes["logistic"].test["mcc"].value == pytest.approx(other.value, abs=1e-5)


@pytest.mark.long
def test_the_gain_is_over_the_mean_at_its_own_layer(swept, single):
    results = swept[1].results
    rows = results.by_label
    mean = rows["mean"]
    assert mean.probes["logistic"].validation == max(mean.layer_validation)
    chosen = rows[results.best_second_order]
    gain = results.contrasts["gain"]
    assert gain.other == "mean"
    at = {row.label: single[row.layer].scores()[row.label].value for row in (mean, chosen)}
    assert gain.value == pytest.approx(at[chosen.label] - at["mean"], abs=1e-5)
    assert f"the mean (layer {mean.layer})" in swept[1].verdict
    assert f"{chosen.label} (layer {chosen.layer})" in swept[1].verdict


def test_of_equal_layers_the_lower_one_is_taken_and_only_one_that_is_there():
    values = np.array([[0.5, 0.7, 0.7], [0.9, 0.1, 0.3], [np.nan, np.nan, 0.2], [np.nan] * 3])
    there = [[True] * 3, [False, True, True], [True] * 3, [False, True, True]]
    assert best_layers(values, there) == [1, 2, 2, 1]


def test_the_model_has_the_layer_of_its_row_and_predicts_what_the_comparison_did(swept, tmp_path):
    folder, result, _ = swept
    model = result.best()
    winner = result.results.by_label[result.results.best_second_order]
    assert (model.embedder.layer_, model.embedder.fitted_.recipe.name) == (winner.layer, winner.label)
    with (folder / "t.csv").open() as file:
        letters = {row["id"]: row["sequence"] for row in csv.DictReader(file)}
    with (folder / "all" / "predictions.csv").open() as file:
        expected = {row["id"]: row["prediction"] for row in csv.DictReader(file)}
    assert dict(zip(letters, model.predict(list(letters.values())))) == expected
    predict_main([str(folder / "all" / "model"), str(folder / "t.csv"), "--to", str(tmp_path / "p.csv")])
    with (tmp_path / "p.csv").open() as file:
        assert {row["id"]: row["prediction"] for row in csv.DictReader(file)} == expected


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A comparison with a mixture and its components; a function that goes on with a folder as that comparison."""
    table = write_table(tmp_path_factory.mktemp("mixed") / "t.csv")
    rows = ["mean", "regional_mean", "sqrt_covariance", "log_covariance", "auto", "auto_3_components"]

    def run(output):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("covjax.recipes.mixtures.WIDE", 4)
            return covjax.compare(table, output=output, layers="0,2", **OPTIONS | {"rows": rows, "components": [3]})

    return table, run(table.parent / "run").folder, run


@pytest.mark.long
@pytest.mark.parametrize("row", ["log_covariance", "auto", "auto_3_components"])
def test_the_model_has_the_layer_of_the_row_that_it_is_of_beside_a_mixture_too(mixed, tmp_path, monkeypatch, row):
    table, folder, run = mixed
    monkeypatch.setattr(Results, "winner", row)
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("model", "results.json", "predictions.csv"))
    result = run(tmp_path / "run")
    model = result.best()
    assert (model.embedder.layer_, model.embedder.recipe) == (result.results.by_label[row].layer, row)
    with table.open() as file:
        sequences = [line["sequence"] for line in csv.DictReader(file)]
    with (tmp_path / "run" / "predictions.csv").open() as file:
        assert list(model.predict(sequences)) == [line["prediction"] for line in csv.DictReader(file)]


@pytest.mark.long
def test_a_run_that_lost_parts_ends_in_the_same_numbers(swept, tmp_path, capsys):
    folder, result, _ = swept
    shutil.copytree(folder / "all", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "layers" / "1")
    for part in ("layers/2/features/mean", "layers/0/probes/sqrt_covariance"):
        shutil.rmtree(tmp_path / "run" / part)
    (tmp_path / "run" / "results.json").unlink()
    again = covjax.compare(folder / "t.csv", output=tmp_path / "run", layers="0,1,2", **OPTIONS)
    assert again.results.rows == result.results.rows
    assert again.results.test_looks == 1
    assert "features: 3 complete and reused, 1 to make" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds another run: .*layer"):
        covjax.compare(folder / "t.csv", output=tmp_path / "run", layers="0,2", **OPTIONS)


def test_force_removes_the_layers(swept, tmp_path):
    folder = swept[0]
    shutil.copytree(folder / "all", tmp_path / "run")
    remove_own(tmp_path / "run")
    assert not (tmp_path / "run" / "layers").exists()


def test_page_table_and_frame_show_the_layer_beside_each_row(swept):
    folder, result, _ = swept
    page = (folder / "all" / "report.html").read_text()
    assert "Which layer?" in page
    assert "layers 0, 1, 2, of which validation chose one for each row" in page
    mean = result.results.by_label["mean"]
    best = f"<b>{mean.layer_validation[mean.layer]:.3f}</b>"
    assert best in page
    head, _, *lines = table(result.results).split("\n")
    assert head.split()[:2] == ["recipe", "layer"]
    assert [line.split()[1] for line in lines if line.startswith("mean ")] == [str(mean.layer)]
    assert all(len(line) <= 80 for line in lines)
    layers = {record["recipe"]: record["layer"] for record in result.records()}
    assert layers["mean"] == mean.layer
    assert layers["composition"] is None


def test_a_comparison_of_one_layer_says_nothing_of_layers(single):
    dump = single[0].dump()
    assert "layers" not in dump
    assert not any("layer" in name for row in dump["rows"] for name in row)


@pytest.mark.long
def test_with_little_memory_the_encoder_runs_more_often_and_the_test_set_is_scored_once(
    swept, tmp_path, monkeypatch, capsys
):
    folder, result, _ = swept
    every, summarise, calls = EncodedTokens.of_layers, scoring.summarise, []

    def little(encoder, sequences, layers, token_budget, max_gib, mesh):
        one = (sum(map(len, sequences)) + 3 * token_budget) * 8 * 4 / 2**30
        return every(encoder, sequences, layers, token_budget, 2.5 * one, mesh)

    def counted(*args):
        calls.append(args[5])
        return summarise(*args)

    monkeypatch.setattr(EncodedTokens, "of_layers", little)
    monkeypatch.setattr(compare, "summarise", counted)
    before = SEQUENCES
    again = covjax.compare(folder / "t.csv", output=tmp_path / "run", layers=[1, -1, 0], **OPTIONS)
    assert SEQUENCES - before in (2 * N + 2, 3 * N + 2)  # twice, and once more for a winner whose tokens are gone
    assert "the encoder runs 2 times over the sequences" in capsys.readouterr().out
    assert len(calls) == 1
    assert set(calls[0]) == set(ROWS)  # one fitted probe a row
    assert (tmp_path / "run" / scoring.LOOKS).read_text().count("\n") == again.results.test_looks == 1
    for row, other in zip(again.results.rows, result.results.rows, strict=True):
        np.testing.assert_allclose(row.layer_validation, other.layer_validation, atol=1e-5)


@pytest.mark.long
def test_one_pass_at_a_time_is_in_memory_and_gives_each_layer_its_tokens(tmp_path):
    write_bert(tmp_path, np.random.default_rng(0))
    bert = load(tmp_path)
    rng = np.random.default_rng(1)
    sequences = ["".join(rng.choice(list("ACDEFG"), n)) for n in (5, 9, 12, 7)]
    one = (33 + 3 * 64) * 16 * 4 / 2**30
    tokens = EncodedTokens.of_layers(bert, sequences, (0, 1, 2), 64, 2.5 * one)
    assert tokens[0].runs == 2
    assert [tokens[layer].has_special for layer in range(3)] == [False, True, True]  # an embedding has seen nothing
    for layer in (0, 1, 2, 0):
        alone = EncodedTokens(bert, sequences, layer, 64)
        for ours, expected in zip(tokens[layer].walk("test"), alone.walk("test"), strict=True):
            np.testing.assert_array_equal(ours.rows, expected.rows)
            np.testing.assert_allclose(ours.tokens, expected.tokens, atol=1e-5)
            if layer:
                np.testing.assert_allclose(ours.special, expected.special, atol=1e-5)
        there = {number: bool(each._kept) for number, each in tokens.items()}
        assert there == {0: layer < 2, 1: layer < 2, 2: layer == 2}


@pytest.mark.long
def test_the_special_token_is_a_row_where_it_has_seen_the_sequence(tmp_path):
    write_bert(tmp_path, np.random.default_rng(0))
    write_table(tmp_path / "t.csv")
    options = OPTIONS | {"encoder": str(tmp_path), "rows": ["mean", "cls", "covariance"]}
    rows = covjax.compare(tmp_path / "t.csv", output=tmp_path / "run", layers="0,2", **options).results.by_label
    assert rows["cls"].layer == 2
    assert rows["cls"].layer_validation[0] is None
    assert None not in rows["mean"].layer_validation


@pytest.mark.long
@pytest.mark.parametrize("folds", [0, 2])
def test_covariates_have_no_layer(tmp_path, folds):
    lines = write_table(tmp_path / "t.csv").read_text().splitlines()
    lines = [f"{line.rsplit(',', 1)[0]},{i % 7 if i else 'w'}" for i, line in enumerate(lines)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    options = OPTIONS | {"rows": ["mean", "covariance", "composition"], "covariates": ["w"], "folds": folds}
    rows = covjax.compare(tmp_path / "t.csv", output=tmp_path / "run", layers="0,2", **options).results.by_label
    for name in ("composition", "covariates", "composition+covariates"):
        assert rows[name].layer_validation == ()
    assert len(rows["mean"].layer_validation) == 2


class Uneven(UniRep):
    """Layers of two widths."""

    def features(self, layer):
        return (64, 64, 128)[layer]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("0,9", "layers: 9 is not one of -3 … 2"),
        ("2,-1", "layers: 2,-1 names layer 2 twice"),
        ("all", r"layers of several widths.*0,1 \(64\); 2 \(128\)"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(layers, message):
    encoder = Uneven(random_weights(layers=3))
    assert several_layers("-2,0", encoder) == (0, 1)
    with pytest.raises(InputError, match=message):
        several_layers(layers, encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "0,1", "layer": 1}, "layer: 1 beside layers 0,1; give one of them"),
        ({"layers": "some"}, "layers: 'some' is not allowed; all, or layers separated by commas"),
        ({"layers": [0, 7]}, "layers: 7 is not one of -3 … 2"),
        ({"layers": "all", "activations": [np.zeros((3, 2))] * N, "encoder": "unirep-64"}, "compared at one layer"),
    ],
)
def test_bad_layers_are_one_line(swept, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        covjax.compare(swept[0] / "t.csv", output=tmp_path / "run", **OPTIONS | options)
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_command_takes_negative_layers():
    config, _ = parse("covjax compare", "", CompareConfig, ["t.csv", "--layers", "-1,-3"], ("data",))
    config.check()
    assert config.layers == "-1,-3"


@pytest.mark.long
def test_a_mixture_that_wins_is_the_model_at_its_own_layer(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["id,sequence,label,split"]
    for i in range(N):
        letters = sorted(rng.choice(list("ACDEFGHIKL"), 12), reverse=i % 2 > 0)  # the order alone says the class
        lines.append(f"P{i},{''.join(letters)},{i % 2}.5,{('train', 'validation', 'test')[i // 2 % 3]}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    rows = ["mean", "regional_mean", "sqrt_covariance", "log_covariance", "auto"]
    options = OPTIONS | {"rows": rows, "probes": ["ridge"], "task": "regression"}
    result = covjax.compare(tmp_path / "t.csv", output=tmp_path / "run", layers="all", **options)
    rows = result.results.by_label
    assert result.results.winner == "auto"
    assert rows["auto"].layer != rows[result.results.best_second_order].layer
    model = result.best()
    assert (model.embedder.layer_, model.embedder.fitted_.recipe.name) == (rows["auto"].layer, "auto")
    with (tmp_path / "run" / "predictions.csv").open() as file:
        expected = [float(row["prediction"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(model.predict([line.split(",")[1] for line in lines[1:]]), expected, atol=1e-4)


def test_wide_rows_are_compared_at_several_layers(swept, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WIDE", 10)
    options = OPTIONS | {"rows": ["mean", "sqrt_covariance"]}
    rows = covjax.compare(swept[0] / "t.csv", output=tmp_path / "run", layers="0,2", **options).results.by_label
    expected = swept[1].results.by_label["sqrt_covariance"].layer_validation
    np.testing.assert_allclose(rows["sqrt_covariance"].layer_validation, [expected[0], expected[2]], atol=1e-5)
