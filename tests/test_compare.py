"""The main command end to end on small made-up data with a small random encoder, and every kind of bad input."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from covjax.activations import EncodedTokens
from covjax.comparison import command, compare, config, features
from covjax.comparison.config import choose_recipes
from covjax.comparison.probing import best_penalty
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from tests.processes import launch
from tests.test_unirep import random_weights

register_encoder("tiny", lambda dtype: UniRep(random_weights()))
OPTIONS = ["--encoder", "tiny", "--ranks", "2,4", "--penalties", "1e-3,1e-1,1", "--resamples", "100"]
OPTIONS += ["--trained", "attention", "--steps", "8", "--seeds", "0,1"]
# Every kind of row once: compiling all of them takes most of the time.
ROWS = ["mean", "covariance", "sqrt_covariance", "pca_covariance_2", "mean_outer", "shuffled_covariance", "composition"]
OPTIONS += ["--rows", ",".join([*ROWS, "attention", "mean+sqrt_covariance"])]
FEWER = ["--trained", "", "--ranks", "2", "--rows", ",".join(ROWS)]


def sequences(rng, n):
    # two lengths, so that every program is compiled for two shapes only
    return ["M" + "".join(rng.choice(list("ACDEFGHIKL"), size)) for size in rng.choice([9, 24], n)]


def write_table(path, rng, n=150, header="sequence,label,split", label=None):
    splits = ["train"] * (n - 80) + ["validation"] * 40 + ["test"] * 40
    rows = []
    for sequence, split in zip(sequences(rng, n), splits):
        value = label(sequence) if label else str(int(sequence.count("A") / len(sequence) > 0.1))
        rows.append(f"{sequence},{value},{split}")
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def run(tmp_path, *options):
    argv = ["--data", str(tmp_path / "t.csv"), "--output", str(tmp_path / "run"), *OPTIONS, *options]
    command.main(argv)
    return json.loads((tmp_path / "run" / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_table(folder / "t.csv", np.random.default_rng(0))
    return folder, run(folder)


@pytest.mark.long
def test_results_hold_every_row_probe_metric_and_the_manifest(finished):
    _, results = finished
    labels = [row["label"] for row in results["rows"]]
    assert labels[:3] == ["mean", "attention", "covariance"]
    assert set(labels) == {*ROWS, "attention", "mean+sqrt_covariance"}
    for row in results["rows"]:
        assert set(row["probes"]) == {"logistic", "ridge"}
        for probe in row["probes"].values():
            assert set(probe["test"]) == {"mcc", "accuracy", "auroc"}
            for score in probe["test"].values():
                assert score["interval"][0] <= score["interval"][1]
            assert len(probe["validation_path"]) == 3
    attention = next(row for row in results["rows"] if row["label"] == "attention")["probes"]["ridge"]["test"]["mcc"]
    assert attention["value"] == pytest.approx(np.mean(attention["seeds"]))
    assert len(attention["seeds"]) == 2
    assert results["contrasts"]["gain"]["other"] == "mean"
    assert {"config", "data", "encoder", "device", "versions", "command"} <= set(results["manifest"])
    assert results["rows"][0]["probes"]["ridge"]["test"]["mcc"]["difference"] == 0


@pytest.mark.long
def test_of_penalties_that_are_equal_on_validation_the_strongest_is_taken(finished):
    penalties = [1e-3, 1e-1, 1.0]
    for values in ([0.5, 0.7, 0.7], [0.7, 0.7, 0.7], [0.7, 0.6, 0.7]):
        assert best_penalty(values, penalties) == 2
        assert best_penalty(values[::-1], penalties[::-1]) == 0
    assert best_penalty([0.7, 0.5, 0.6], penalties) == 0
    for row in finished[1]["rows"]:
        for probe in row["probes"].values():
            path = probe["validation_path"]
            assert probe["penalty"] == max(p for p, value in zip(penalties, path) if value == max(path))


def test_the_label_that_depends_on_composition_is_found_by_composition(finished):
    _, results = finished
    rows = {row["label"]: row["probes"]["logistic"]["test"]["auroc"]["value"] for row in results["rows"]}
    assert rows["composition"] > 0.9


def test_a_second_run_reuses_all_and_changes_nothing(finished, capsys):
    folder, results = finished
    assert results["test_looks"] == 1
    assert run(folder) == results
    out = capsys.readouterr().out
    assert "features: all 10 complete" in out
    assert "probes: all 10 complete" in out
    assert "results: complete" in out


def test_the_page_is_made_again_where_it_is_not_of_these_results(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    page, figure = tmp_path / "run" / "report.html", tmp_path / "run" / "figures" / "chain.png"
    run(tmp_path)  # the results name their folder
    text, time = page.read_text(), page.stat().st_mtime_ns
    run(tmp_path)
    assert page.stat().st_mtime_ns == time
    figure.unlink()
    run(tmp_path)
    assert page.stat().st_mtime_ns > time
    assert figure.is_file()
    for damaged in (text[:-100], text[: text.rindex("<!--")], ""):
        page.write_text(damaged)
        run(tmp_path)
        assert page.read_text() == text


@pytest.mark.slow
def test_a_run_that_lost_parts_ends_in_the_same_numbers(finished, tmp_path, capsys):
    folder, results = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for part in ("features/sqrt_covariance", "features/shuffled_covariance", "probes/mean"):
        shutil.rmtree(tmp_path / "run" / part)
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "features" / "sqrt_covariance").mkdir()  # a kill leaves a folder without metadata
    again = run(tmp_path)
    assert "features: 8 complete and reused, 2 to make" in capsys.readouterr().out
    for a, b in zip(results["rows"], again["rows"]):
        assert a == b


@pytest.mark.slow
def test_force_redoes_everything(finished, tmp_path, capsys):
    folder, results = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    again = run(tmp_path, "--force")
    assert again["rows"] == results["rows"]
    assert again["test_looks"] == 1
    assert "0 complete and reused, 10 to make" in capsys.readouterr().out
    other = run(tmp_path, "--force", "--penalties", "1e-2,1e-1,1")
    assert other["test_looks"] == 2
    assert any("scored under 2 settings from this folder" in text for text in other["warnings"])


@pytest.mark.slow
def test_autoencoders_of_the_training_tokens_give_rows(tmp_path, capsys):
    write_table(tmp_path / "t.csv", np.random.default_rng(2))
    bases = ["tucker_covariance_2", "random_covariance_2"]
    rows = ["mean", "sae_mean", "sae_max", "covariance", "sae_cooccurrence", *bases]
    options = ["--rows", ",".join(rows), "--bases", "tucker,random", "--sae-latents", "16", "--sae-k", "3"]
    options += ["--sae-steps", "3", "--sae-pairs", "20", "--ranks", "2"]
    results = run(tmp_path, *options)
    assert [row["label"] for row in results["rows"]] == rows
    sizes = {row["label"]: row["num_features"] for row in results["rows"]}
    assert sizes["sae_mean"] == sizes["sae_max"] == 16
    assert sizes["sae_cooccurrence"] <= 20
    assert sizes["tucker_covariance_2"] == 3
    assert "No control was compared" in (tmp_path / "run" / "report.html").read_text()
    trained = tmp_path / "run" / "pools" / "sae_latents_16_k_3_steps_3"
    kept = (trained / "log.jsonl").read_text()
    shutil.rmtree(tmp_path / "run" / "features" / "sae_mean")
    (tmp_path / "run" / "results.json").unlink()
    capsys.readouterr()
    again = run(tmp_path, *options)
    assert "features: 6 complete and reused, 1 to make" in capsys.readouterr().out
    assert again["rows"] == results["rows"]
    assert (trained / "log.jsonl").read_text() == kept  # the autoencoder was not trained again


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]


def test_report_is_one_file_with_all_figures(finished):
    folder, results = finished
    page = Page()
    page.feed((folder / "run" / "report.html").read_text())
    pictures = {path.stem for path in (folder / "run" / "figures").glob("*.png")}
    assert page.tags.count("svg") == len(pictures)
    assert {"differences", "rank", "confusion"} <= pictures <= set(compare.FIGURES) - {"terms", "measured"}
    assert page.links == []
    assert "script" not in page.tags
    text = (folder / "run" / "report.html").read_text()
    for row in results["rows"]:
        assert f"{row['probes']['logistic']['test']['mcc']['value']:.3f}" in text
    for name in pictures:
        assert (folder / "run" / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_multilabel_and_regression_tasks(tmp_path, rng):
    labels = lambda s: ";".join(c for c in "AC" if s.count(c) > 2)
    write_table(tmp_path / "t.csv", rng, header="sequence,labels,split", label=labels)
    results = run(tmp_path, *FEWER)
    assert results["primary"] == "auprc"
    assert [term["label"] for term in results["terms"]] == ["A", "C"]
    assert (tmp_path / "run" / "figures" / "terms.png").exists()

    write_table(tmp_path / "t.csv", rng, label=lambda s: f"{s.count('A') / len(s):.5f}")
    command.main(["--data", str(tmp_path / "t.csv"), "--output", str(tmp_path / "numbers"), *OPTIONS, *FEWER])
    results = json.loads((tmp_path / "numbers" / "results.json").read_text())
    assert results["probes"] == ["ridge"]
    rows = {row["label"]: row["probes"]["ridge"]["test"]["r2"]["value"] for row in results["rows"]}
    assert rows["composition"] > 0.99


@pytest.mark.slow
def test_features_do_not_depend_on_batches(tmp_path, rng):
    """Nor on whether the tokens are kept, or on how many rows are pooled in one pass."""
    write_table(tmp_path / "t.csv", rng, n=100)
    data = compare.assign_splits(compare.read_table(tmp_path / "t.csv"))
    found = []
    for number, (budget, memory, gib) in enumerate(((200, 1.0, 1.0), (5000, 0.0, 1e-9))):
        settings = config.CompareConfig(data="t.csv", ranks=(2,), trained=(), max_features_gib=gib)
        tokens = EncodedTokens(UniRep(random_weights()), data.sequences, 1, budget, memory)
        names = ("mean", "sqrt_covariance", "shuffled_covariance", "pca_covariance_2")
        rows = tuple(each for each in choose_recipes(settings, 8, False) if each.name in names)
        found.append(features.make_features(settings, data, tokens, rows, tmp_path / str(number), {}))
    for label, table in found[0].items():
        np.testing.assert_allclose(table.values, found[1][label].values, atol=2e-4, err_msg=label)


@pytest.mark.slow
def test_features_do_not_depend_on_the_number_of_devices(tmp_path):
    (output,) = launch(["pooling", str(tmp_path)], devices=4)
    assert [line.split()[-2:] for line in output.splitlines() if "True" in line or "False" in line] == [
        ["True"] * 2
    ] * 4


def test_a_suite_over_several_processes_is_refused_with_the_reason(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--suite", "all", "--distributed", "auto"])
    assert "distributed: the tasks of --suite are jobs of their own" in capsys.readouterr().err


GOOD = "sequence,label,split\nMKA,1,train\nMKC,0,train\nMKD,1,validation\nMKE,0,validation\nMKF,1,test\nMKG,0,test\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "no such file"),
        ("", [], "the file is empty"),
        (GOOD.replace("label", "value"), [], "missing column 'label' or 'labels'"),
        (GOOD.replace("MKE", "MK*E"), [], r"t.csv: line 5 (row5): unknown residue letter '*' at position 3"),
        (GOOD.replace("MKE", "MKEEEE"), ["--max-length", "5"], "line 5 (row5): 6 letters, more than max_length 5"),
        (GOOD.replace("MKG,0", "MKG,1"), [], "in all 2 rows of the split 'test'"),
        (GOOD.replace("MKG,0", "MKA,0"), [], "sequence 'MKA' is in split 'train' (line 2)"),
        (GOOD, ["--encoder", "unirep-65"], "encoder: 'unirep-65' is not known"),
        (GOOD, ["--layer", "2"], "layer: 2 is not one of -2 … 1"),
        (GOOD, ["--ranks", "9"], "ranks: 9 is more than the encoder's 8 features"),
        (GOOD, ["--rows", "covariance"], "rows: ('covariance',) is not allowed; recipes including mean"),
        (GOOD, ["--bases", "pca,pca"], "bases: ('pca', 'pca') is not allowed; distinct names among pca"),
        (GOOD, ["--sae-latents", "4", "--sae-k", "5"], "sae_k: 5 is not allowed; 1 to sae_latents"),
        (GOOD, ["--eps", "0"], "eps: 0.0 is not allowed"),
        (GOOD, ["--colour", "red"], "unrecognized arguments: --colour red"),
        (GOOD, ["--task", "ranking"], "task: 'ranking' is not one of"),
        (GOOD, ["--output", "/proc/none"], "output: /proc/none: cannot be written"),
    ],
)
def test_bad_input_is_one_line_status_2_and_leaves_nothing(tmp_path, capsys, text, options, message):
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, *options)
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert "Traceback" not in error
    assert not list((tmp_path / "run").rglob("*")) if (tmp_path / "run").exists() else True


def test_what_the_table_was_taken_for_is_said_once(tmp_path, capsys):
    text = GOOD.replace("sequence,label", "Seq,Kind").replace("MKG,0,test\n", "MKG,0,test\nMKW,NA,test\n")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SystemExit):
        run(tmp_path, "--label-column", "Kind", "--missing", "drop", "--layer", "2")
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: t.csv: ")]
    assert [note.removeprefix("note: t.csv: ") for note in notes[:2]] == [
        "columns: sequence = 'Seq', label = 'Kind', split = 'split'",
        "1 of 7 rows left out, without labels in column 'Kind': 'NA' 1× (first: line 8)",
    ]


def test_another_comparison_in_the_same_folder_is_refused(finished, tmp_path, capsys):
    folder, _ = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(SystemExit):
        run(tmp_path, "--seed", "1")
    assert "config.seed: 0 -> 1" in capsys.readouterr().err


def test_results_stand_before_figures_are_drawn(finished, tmp_path, monkeypatch):
    folder, results = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    (tmp_path / "run" / "report.html").unlink()

    def fail(*_):
        raise ArithmeticError

    monkeypatch.setattr("covjax.comparison.figures.draw_figures", fail)
    with pytest.raises(ArithmeticError):
        run(tmp_path)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == results["rows"]


def test_an_edited_result_is_made_again_from_the_checkpoints(finished, tmp_path, capsys):
    folder, results = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "run" / "results.json"
    path.write_text(path.read_text().replace('"value": 0.', '"value": 1.', 1))
    assert run(tmp_path)["rows"] == results["rows"]
    printed = capsys.readouterr()
    assert "results.json: changed or damaged" in printed.err
    assert "reused" not in printed.out.split("probes: all")[1].split("\n", 1)[1]


def test_other_sizes_of_a_source_make_another_table(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(compare, "write_source", lambda name, path, shared, sizes: made.append(sizes) or path.touch())
    for sizes in ((), (8, 2, 2), (8, 2, 2), (9, 2, 2)):
        compare._source_table(config.CompareConfig(source="trec", sizes=sizes), tmp_path)
    assert made == [None, (8, 2, 2), (9, 2, 2)]
