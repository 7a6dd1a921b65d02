"""What the page of a comparison says: its answer, order, single predictions and commands, against plain counts."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest

from covjax.comparison.datacard import Predictions, class_order, class_scores, confusion, data_card
from covjax.comparison.figures import draw_figures, shown_terms
from covjax.comparison.glossary import WORDS, words_of
from covjax.comparison.model import true_cells
from covjax.comparison.page import relative
from covjax.comparison.probing import FittedProbe
from covjax.comparison.report import write_report
from covjax.comparison.scoring import resampled_interval
from covjax.comparison.sections import data_warnings, next_section, row_warnings
from covjax.comparison.verdict import answer, main_rows
from covjax.data import Dataset
from covjax.errors import InputError
from tests.suite_examples import changed, example
from tests.test_suite_summary import WINS
from tests.test_verdict import make

SPLITS = np.array(["train"] * 4 + ["validation"] * 2 + ["test"] * 4)
MANIFEST = {
    "config": {"resamples": 100, "output": "/data/runs/mine", "layer": -1, "layers": "", "rows": []},
    "encoder": {"name": "tiny", "layer": 1},
    "data": {"file": "my.csv"},
    "command": "covjax compare /data/my.csv --output /data/runs/mine --rows mean,covariance",
    "versions": {"jax": "0"},
}


def dataset(task, targets, names, sequences=None):
    n = len(SPLITS)
    sequences = tuple("ACDEFGHIKL"[: i + 1] for i in range(n)) if sequences is None else sequences
    ids = tuple(f"s{i}" for i in range(n))
    return Dataset("t.csv", task, ids, sequences, targets, names, ids, SPLITS, False)


def fit(scores):
    return {"ridge": FittedProbe(None, scores, 0.1, [0.5], True)}


def test_the_truth_of_every_task_as_cells():
    """One label that is there or not stays a label: a table of several may leave one after the rare ones."""
    n = len(SPLITS)
    one = np.arange(n) % 2 == 0
    assert true_cells(dataset("multilabel", one[:, None], ("a",)))[:2] == ["a", ""]
    assert true_cells(dataset("multilabel", np.ones((n, 2), bool), ("a", "b")))[:1] == ["a;b"]
    assert true_cells(dataset("multiclass", np.stack([one, ~one], 1), ("a", "b")))[:2] == ["a", "b"]
    assert true_cells(dataset("regression", np.full((n, 1), 0.5), ("y",)))[:1] == ["0.5"]
    assert true_cells(dataset("regression", np.full((n, 2), 0.5), ("y", "z")))[:1] == ["0.5;0.5"]


@pytest.mark.parametrize(
    ("results", "beginning", "words"),
    [
        (make(), "Yes: ", "no simpler pool and no control does as well"),
        (make(gain=(0.1, -0.01, 0.2)), "Not shown: ", "chance can explain the difference"),
        (make(gain=(-0.1, -0.2, -0.01)), "No: ", "predicts worse than the plain average"),
        (
            make(baseline=("first", 0.1, -0.05, 0.15)),
            "Better, but not by second order: ",
            "where tokens are is enough",
        ),
        (make(baseline=("max", -0.1, -0.2, -0.05)), "Better, but not by second order: ", "max (0.400) does better"),
        (
            make(control=("mean_outer", 0.1, 0.0, 0.2)),
            "Better, but not by second order: ",
            "mean_outer (0.500) does as",
        ),
        (make(control=None), "Better, but why is open: ", "no control was compared"),
    ],
)
def test_the_answer_is_one_sentence_for_every_kind_of_evidence(results, beginning, words):
    text = answer(results)
    assert text.startswith(beginning)
    assert words in text
    assert text.endswith(".")
    assert ". " not in text


def test_the_answer_names_pairs_and_a_single_family():
    text = answer(make(manifest={"encoder": {"pair": "difference"}}, sizes={"test": 1200}, one_family=True))
    assert "on 1,200 test pairs, within one family," in text
    assert "sequences" not in text


def test_class_scores_are_those_of_plain_counts(rng):
    truth, called = rng.integers(0, 4, 60), rng.integers(0, 3, 60)  # class 3 is never predicted
    counts = confusion(np.eye(4, dtype=bool)[truth], np.eye(4)[called])
    scores = class_scores(counts)
    for i in range(4):
        hits = sum(1 for t, c in zip(truth, called) if t == c == i)
        precision, recall = hits / max(1, (called == i).sum()), hits / (truth == i).sum()
        assert scores["precision"][i] == pytest.approx(precision)
        assert scores["recall"][i] == pytest.approx(recall)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert scores["F1"][i] == pytest.approx(f1)
        assert [counts[i, j] for j in range(4)] == [((truth == i) & (called == j)).sum() for j in range(4)]
    order = class_order(np.eye(4, dtype=bool)[truth])
    sizes = [int((truth == i).sum()) for i in order]
    assert sizes == sorted(sizes, reverse=True)


def test_the_card_of_classes_counts_by_split_and_takes_test_predictions():
    classes = np.array([0, 1, 1, 1, 0, 1, 0, 1, 0, 0])
    data = dataset("multiclass", np.eye(2, dtype=bool)[classes], ("a", "b"))
    chosen, mean = np.arange(20.0).reshape(10, 2), np.zeros((10, 2))
    results = example("x", WINS)
    card = data_card(data, results, {results.best_second_order: fit(chosen), "mean": fit(mean)})
    assert card.labels == {
        "a": {"train": 1, "validation": 1, "test": 3},
        "b": {"train": 3, "validation": 1, "test": 1},
    }
    assert card.lengths == {"train": (1, 2.5, 4), "validation": (5, 5.5, 6), "test": (7, 8.5, 10)}
    assert "always “b”, the most frequent training class: accuracy 0.250" in card.baseline
    assert card.predictions is not None
    np.testing.assert_array_equal(card.predictions.chosen, chosen[6:])
    np.testing.assert_array_equal(card.predictions.truth.argmax(1), classes[6:])


def test_the_card_of_numbers_and_labels():
    values = np.array([1.0, 2, 3, 4, 0, 0, 1, 2, 4, 5])[:, None]
    results = example("x", WINS, task="regression")
    fits = {results.best_second_order: fit(values), "mean": fit(values)}
    card = data_card(dataset("regression", values, ("value",), ()), results, fits)
    assert card.targets["train"] == (1, 2.5, 4)
    assert card.labels == card.lengths == {}
    r2 = 1 - sum((v - 2.5) ** 2 for v in (1, 2, 4, 5)) / sum((v - 3) ** 2 for v in (1, 2, 4, 5))
    assert f"always the training mean: R² {r2:.3f}" in card.baseline
    present = np.arange(30).reshape(10, 3) % 2 == 0
    results = example("x", WINS, task="multilabel")
    fits = {results.best_second_order: fit(present * 1.0), "mean": fit(present * 1.0)}
    card = data_card(dataset("multilabel", present, ("a", "b", "c")), results, fits)
    assert f"macro AUPRC {present[6:].mean():.3f}" in card.baseline


def test_the_order_of_the_page_and_what_is_folded(tmp_path):
    warnings = ["6 groups in the test set: too few", "mean, ridge: penalty 1e-06 is at the edge of the grid"]
    results = example("my-comparison", WINS, warnings=warnings, manifest=MANIFEST)
    rng = np.random.default_rng(0)
    truth = np.eye(3, dtype=bool)[rng.integers(0, 3, 40)]
    card = data_card(
        dataset("multiclass", np.eye(3, dtype=bool)[np.arange(10) % 3], ("a", "b", "<c>")),
        results,
        {label: fit(np.zeros((10, 3))) for label in (results.best_second_order, "mean")},
    )
    card = dataclasses.replace(card, predictions=Predictions(truth, truth * 1.0, truth * 0.5))
    write_report(results, draw_figures(results, tmp_path, card), tmp_path / "report.html", card)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parts = ["<h1>my.csv", "class='answer", "class='doubt'", "strongest control", "<h2>The data", "<h2>Pools"]
    parts += ["<h2>By class", "<h2>What to do next", "<h2>Warnings of single rows", "<h2>Words", "<h2>Manifest"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert len(main_rows(results)) == 10
    assert f"All {len(WINS)} rows, ridge probe" in text
    assert text.index("6 groups in the test set") < places[3]
    assert text.index("at the edge of the grid") > places[7]
    assert "&lt;c&gt;" in text
    assert "/data/runs" not in text.replace("../data/runs", "")
    assert "<details open" not in text


def test_warnings_of_data_and_of_rows_are_all_shown_once():
    texts = (
        "6 groups in the test set",
        "mean, ridge: penalty",
        "covariance: equal for all training sequences",
        "meanly",
    )
    results = example("x", WINS, warnings=texts)
    assert data_warnings(results) == [texts[0], texts[3]]
    assert row_warnings(results) == [texts[1], texts[2]]


def test_three_commands_that_differ_from_the_last_in_what_they_ask():
    results = example("x", WINS, manifest=MANIFEST)
    (text,) = next_section(results)
    lines = [line.split("</pre>")[0] for line in text.split("<pre>")[1:]]
    here = Path("/data/runs/mine")
    assert [shlex.split(line)[:2] for line in lines] == [
        ["covjax", "predict"],
        ["covjax", "compare"],
        ["covjax", "compare"],
    ]
    assert Path(shlex.split(lines[0])[2]).resolve() == here / "model"
    assert lines[1].count("--output") == lines[2].count("--rows") == 1
    assert lines[1].endswith("mine-layers --layers all")
    assert lines[2].endswith("mine-all --rows all")
    quiet = changed(results, "manifest", "command", value="")
    assert "covjax.compare(" in next_section(quiet)[0]
    pairs = changed(results, "manifest", "encoder", "pair", value="both")
    assert "new_pairs.csv" in next_section(pairs)[0]
    assert "--layers" not in next_section(pairs)[0]


def test_paths_are_relative_and_other_text_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert relative(f"covjax compare {tmp_path}/my.csv --output={tmp_path}/runs 1/2 a/b") == (
        "covjax compare my.csv --output=runs 1/2 a/b"
    )
    assert relative(f'"{tmp_path}/x", 3') == '"x", 3'


def test_the_words_are_those_of_the_glossary():
    lines = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text(encoding="utf-8")
    for word, meaning in WORDS.items():
        assert f"| {word} | {meaning} |" in lines
    used = words_of("<p class='probe'>the SAE of a token</p><svg>layer</svg>")
    assert list(used) == ["token", "latent"]


def test_of_many_labels_both_ends_are_drawn():
    terms = [{"label": str(i), "name": str(i), "positives": {"train": 1, "test": 1}} for i in range(60)]
    results = example("x", WINS, terms=terms)
    gains = np.linspace(-0.5, 0.5, 60)
    for place, row in enumerate(results.rows):
        values = [float(0.5 + gain * (row.label != "mean")) for gain in gains]
        results = changed(results, "rows", place, "probes", "ridge", "per_term", value={"mcc": values})
    shown = shown_terms(results)
    assert shown == [*range(59, 47, -1), *range(11, -1, -1)]


def test_too_few_test_sequences_are_refused_with_a_remedy():
    targets = np.eye(2, dtype=bool)[[0, 1, 0, 1, 0, 1, 0, 0, 0, 1]]
    data = dataset("multiclass", targets, ("a", "b"))
    draws = np.array([0.1, np.nan, np.nan])
    with pytest.raises(InputError, match=r"t.csv: MCC: 4 test sequences are too few \(of 'b' there is 1\).*--shares"):
        resampled_interval(draws, data, "MCC")
