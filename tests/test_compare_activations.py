"""A comparison of given activations: the numbers of the encoder that made them, ids and lengths checked, a model."""

import csv
import re
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.comparison import command, probing
from covjax.comparison.config import CompareConfig, choose_recipes
from covjax.comparison.model import Model
from covjax.comparison.source import open_source
from covjax.comparison.tablefiles import TableFiles
from covjax.data import assign_splits, check_splits, read_table
from covjax.embedding_command import predict_main
from covjax.encoders import register_encoder, tokenize
from covjax.encoders.unirep import UniRep
from tests.test_compare import sequences
from tests.test_unirep import random_weights

register_encoder("given-unirep", lambda dtype: UniRep(random_weights()))
ROWS = ["mean", "covariance", "mean_outer", "shuffled_covariance"]
OPTIONS = {"ranks": [2], "penalties": [1e-3, 1e-1, 1.0], "resamples": 100, "trained": [], "probes": ["logistic"]}
N = 120


def write_table(path, columns=("id", "sequence", "label", "split"), n=N):
    rng = np.random.default_rng(0)
    parts = ["train"] * (n - 60) + ["validation"] * 30 + ["test"] * 30
    letters = sequences(rng, n)
    rows = [
        {"id": f"P{i}", "sequence": s, "label": "ab"[s.count("A") > s.count("C")], "split": part, "group": f"g{i}"}
        for i, (s, part) in enumerate(zip(letters, parts))
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def encoded(rows):
    """What the encoder gives for every sequence's own tokens, by id."""
    encoder = UniRep(random_weights())
    out = {}
    for row in rows:
        tokens, mask, pool = tokenize(encoder, [row["sequence"]])
        out[row["id"]] = np.asarray(encoder.apply(tokens, mask, (-1,))[-1])[0][pool[0]]
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    rows = write_table(folder / "t.csv")
    given = encoded(rows)
    np.savez(folder / "x.npz", **given)
    return folder, given


@pytest.fixture(scope="module")
def run(made):
    """By the command, on a table without sequences, from a file whose arrays have a special token at each end."""
    folder, given = made
    write_table(folder / "bare.csv", ("id", "label", "split"))
    np.savez(folder / "framed.npz", **{name: np.pad(x, ((1, 1), (0, 0))) for name, x in given.items()})
    argv = ["--activations", str(folder / "framed.npz"), "--data", str(folder / "bare.csv"), "--drop-first", "1"]
    argv += ["--drop-last", "1", "--output", str(folder / "command"), "--rows", ",".join(ROWS), "--resamples", "100"]
    argv += ["--ranks", "2", "--penalties", "1e-3,1e-1,1", "--trained", "", "--probes", "logistic"]
    command.main(argv)
    return folder, argv, given


def numbers(result):
    """Validation and test values by row; programs of other shapes differ in the last digits."""
    return {row.label: [*row.probes["logistic"].validation_path] for row in result.results.rows}


@pytest.fixture(scope="module")
def own(made):
    """The comparison whose encoder made the activations."""
    folder, _ = made
    rows = [*ROWS, "composition"]
    return covjax.compare(folder / "t.csv", output=folder / "own", encoder="given-unirep", rows=rows, **OPTIONS)


@pytest.mark.long
def test_activations_of_an_encoder_give_its_comparison(made, own):
    folder, given = made
    rows = [*ROWS, "composition"]
    expected = numbers(own)
    assert set(expected) == set(rows)
    ways = {"file": folder / "x.npz", "list": list(given.values())}
    for name, activations in ways.items():
        result = covjax.compare(
            folder / "t.csv", activations=activations, output=folder / name, rows=rows, **OPTIONS, max_memory_gib=0
        )
        for row, values in numbers(result).items():
            np.testing.assert_allclose(values, expected[row], atol=1e-6, err_msg=f"{name}, {row}")
        assert result.results.encoder_features == 8
        source = result.results.manifest["encoder"]
        assert (source["source"], source["layer"], source["dtype"]) == ("activations", None, "float32")
    assert "activations of x.npz, 8 features" in (folder / "file" / "report.html").read_text()


@pytest.mark.long
def test_a_table_without_sequences_has_no_composition_and_says_what_it_cannot_group(run, capsys):
    folder, argv, given = run
    capsys.readouterr()
    command.main(argv)
    out = capsys.readouterr().out
    assert "activations: 120 of framed.npz, 8 features, float32" in out
    assert "near copies cannot be found" in out
    assert "complete in" in out  # the same run: everything is reused
    every = {recipe.name for recipe in choose_recipes(CompareConfig(ranks=(2,)), 8, False)}
    without = choose_recipes(CompareConfig(ranks=(2,)), 8, False, has_sequences=False)
    assert every - {recipe.name for recipe in without} == {"composition"}
    with pytest.raises(InputError, match="rows: 'composition' counts letters, and the table has no column 'sequence'"):
        covjax.compare(
            folder / "bare.csv", activations=given, output=folder / "c", rows=[*ROWS, "composition"], **OPTIONS
        )


def test_the_model_predicts_from_activations_as_the_comparison_read_them(run, own, capsys):
    folder, _, given = run
    model = folder / "command" / "model"
    predict_main([str(model), "--activations", str(folder / "framed.npz"), "--to", str(folder / "p.csv")])
    with (folder / "p.csv").open() as file, (folder / "command" / "predictions.csv").open() as other:
        ours = {row["id"]: row["prediction"] for row in csv.DictReader(file)}
        theirs = {row["id"]: row["prediction"] for row in csv.DictReader(other)}
    assert ours == theirs
    assert len(ours) == N
    loaded = Model.load(model)
    assert loaded.reading == {"layer": -1, "drop_first": 1, "drop_last": 1}
    assert loaded.predict(list(given.values())).tolist() == list(theirs.values())
    (folder / "new.fasta").write_text(">a\nMKTA\n")
    for argv, message in {
        (str(model), str(folder / "new.fasta")): "predicts from activations alone; .* --activations NEW",
        (str(folder / "own" / "model"), "--activations", str(folder / "x.npz")): "has its own encoder",
    }.items():
        with pytest.raises(SystemExit):
            predict_main([*argv, "--to", str(folder / "no.csv")])
        error = capsys.readouterr().err
        assert re.search(message, error.strip().split("\n")[-1])


def test_texts_for_an_embedder_of_activations_are_refused(made):
    embedder = covjax.Embedder("given-unirep", recipe="mean").fit(list(made[1].values()))
    with pytest.raises(InputError, match="X: texts, but the recipe was fitted on activations"):
        embedder.transform(["MKTA"])


def test_other_activations_are_another_run(run, capsys):
    folder, argv, given = run
    changed = {name: np.pad(x + (name == "P3"), ((1, 1), (0, 0))) for name, x in given.items()}
    (folder / "changed").mkdir()
    np.savez(folder / "changed" / "framed.npz", **changed)
    with pytest.raises(SystemExit):
        command.main([argv[0], str(folder / "changed" / "framed.npz"), *argv[2:]])
    assert "weights_digest" in capsys.readouterr().err


def opened(folder, activations, table="t.csv", **options):
    """What a comparison makes of activations before it pools: the table, and where its tokens come from."""
    if isinstance(activations, str | Path):
        options, activations = {**options, "activations": str(activations)}, None
    config = CompareConfig(data=str(folder / table), **options)
    data = read_table(folder / table, missing=config.missing, needs_sequence=False)
    return open_source(config, data, activations)


def refused(folder, message, activations, **options):
    with pytest.raises(InputError, match=message) as caught:
        opened(folder, activations, **options)
    assert "\n" not in str(caught.value)


def test_rows_without_activations_are_counted_and_named(made):
    folder, given = made
    few = {name: x for name, x in reversed(given.items()) if name not in ("P1", "P119")} | {"extra": given["P1"]}
    refused(folder, r"2 of 120 rows have no activations in given activations \(first 'P1', 'P119'\); --missing", few)
    data, source = opened(folder, few, missing="drop")
    assert data.ids == tuple(name for name in given if name in few)
    assert source.notes[0] == "activations: 1 of 119 have no row in the table (first 'extra')"
    assert source.notes[1].endswith("(first 'P1', 'P119') and are left out")
    for batch in source.tokens(data, None).walk("test"):
        for row, x, weights in zip(batch.rows, batch.tokens, batch.weights):
            np.testing.assert_array_equal(x[weights > 0], given[data.ids[row]])
    others = {f"x{name}": x for name, x in given.items()}
    refused(folder, "120 of 120 rows have no activations .*; its ids are others .*first 'xP0'.*--id-column", others)
    message = "119 arrays in given activations, in the table's order, but t.csv has 120 rows"
    refused(folder, message, list(given.values())[1:])


def test_lengths_are_compared_with_the_sequences(made):
    folder, given = made
    framed = {name: np.pad(x, ((1, 1), (0, 0))) for name, x in given.items()}
    refused(folder, r"120 of 120 have another number .* 2 too many in each\); special tokens .* --drop-first N", framed)
    cut = given | {"P7": given["P7"][:5]}
    refused(folder, r"1 of 120 have another number of tokens .*first: 'P7', 5 tokens, (10|25) letters\)", cut)
    _, source = opened(folder, cut, force_lengths=True)
    assert "1 of 120 have another number of tokens" in source.notes[-1]
    (folder / "text.csv").write_text("id,text,label\n" + "".join(f"{n},two words,{n[-1]}\n" for n in given))
    assert "lengths are not compared" in opened(folder, given, "text.csv")[1].notes[-1]


def test_what_only_one_kind_of_source_has_is_refused(made):
    folder, given = made
    refused(folder, "drop_first, drop_last: only with activations", "", encoder="given-unirep", drop_first=1)
    refused(folder, "encoder: 'given-unirep' beside activations", folder / "x.npz", encoder="given-unirep")
    refused(folder, "layer: 2, but activations in memory are of one layer", given, layer=2)
    refused(folder, "activations: .*absent.h5: no such file or folder", folder / "absent.h5")
    refused(folder, "layer: 3, but .*x.npz does not say which layers it holds", folder / "x.npz", layer=3)
    refused(folder, "id 'P4' has 7 features a token, but 'P0' has 8", given | {"P4": given["P4"][:, :7]})
    refused(folder, "id 'P4' holds NaN or inf", given | {"P4": given["P4"] * np.nan})


def test_equal_activations_share_a_group(made):
    folder, given = made
    write_table(folder / "nosplit.csv", ("id", "label"))
    twins = given | {"P0": given["P1"], "P2": given["P1"]}
    data, source = opened(folder, twins, "nosplit.csv")
    assert len(set(data.groups)) == 118
    split = assign_splits(data)
    assert len(set(split.splits[:3])) == 1
    check_splits(split)
    assert data.grouping.startswith("no column 'group' and no sequences")
    other = opened(folder, given, "nosplit.csv")[1]
    assert source.describe(data)["weights_digest"] != other.describe(data)["weights_digest"]
    write_table(folder / "grouped.csv", ("id", "label", "group"))
    data, _ = opened(folder, given, "grouped.csv")
    assert (data.grouping, data.groups[3]) == ("", "g3")
    assert assign_splits(data).splits is not None


def test_a_table_goes_before_the_next_one_is_read(made, tmp_path, monkeypatch):
    """Of one split and exact rows: two large tables, and what reading one takes, are more than the limit."""
    folder, given = made
    read, alive = list[weakref.ref](), list[int]()
    find = TableFiles.find

    def counted(self, name):
        alive.append(sum(values() is not None for values in read))
        if (table := find(self, name)) is not None:
            read.append(weakref.ref(table.values))
        return table

    monkeypatch.setattr(TableFiles, "find", counted)
    monkeypatch.setattr(TableFiles, "_keep", lambda *_: None)
    monkeypatch.setattr(probing, "two_threads", lambda *_: ThreadPoolExecutor(1))
    options = OPTIONS | {"rows": ["mean", "covariance", "mean_outer"], "output": tmp_path / "run"}
    covjax.compare(folder / "t.csv", activations=given, **options)
    assert len(read) >= 9  # of three rows: digests, probes, results
    assert alive == [0] * len(alive)
