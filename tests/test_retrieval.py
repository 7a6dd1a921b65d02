"""`--protocol retrieval`: ranks by cosine against plain NumPy, ties, lonely classes, and the whole run."""

import numpy as np
import pytest

from covjax import InputError
from covjax.comparison.config import CompareConfig, choose_recipes
from covjax.comparison.model import Model
from covjax.comparison.probing import task_of
from covjax.comparison.results import read_results
from covjax.comparison.retrieval import DEPTHS, METRICS, query_scores, recall_at, unanswerable
from covjax.data import read_table
from covjax.embedder import Embedder
from covjax.embedding import tables
from covjax.embedding.tables import Table, make_table
from tests.test_comparison_api import compare, write_table

ROWS = ["mean", "max", "covariance", "log_covariance", "mean_outer", "shuffled_log_covariance", "composition"]
MATCHED = {"sliced_wasserstein_matched": 32, "kernel_mean_matched": 36}  # of 36 numbers of a packed covariance


def plain(vectors, targets, train, queries):
    """Average precision and hits of every query in float64, one query at a time, where no two cosines are equal."""
    x = vectors.astype(np.float64)
    x = x - x[train].mean(0)
    out = []
    for i in queries:
        cosine = [x[i] @ x[j] / np.sqrt((x[i] @ x[i]) * (x[j] @ x[j])) for j in train]
        hits = [bool((targets[i] & targets[j]).any()) for j in train[np.argsort(cosine)[::-1]]]
        places = [place for place, hit in enumerate(hits, 1) if hit]
        if places:
            precision = np.mean([sum(hits[:place]) / place for place in places])
            out.append([precision, *(float(any(hits[:depth])) for depth in DEPTHS)])
        else:
            out.append([np.nan] * (1 + len(DEPTHS)))
    return np.array(out)


def example(rng, labels, n=320, p=12):
    targets = np.eye(labels, dtype=bool)[rng.integers(labels, size=n)]
    vectors = (targets @ rng.normal(size=(labels, p)) + rng.normal(size=(n, p)) + 3).astype(np.float32)
    rows = rng.permutation(n)
    return vectors, targets, rows[:40], rows[40:]


@pytest.mark.parametrize("multilabel", [False, True])
def test_scores_of_queries_are_those_of_plain_numpy(multilabel):
    rng = np.random.default_rng(0)
    vectors, targets, train, queries = example(rng, 15)
    if multilabel:
        targets = targets | (rng.random(targets.shape) < 0.05)
    expected = plain(vectors, targets, train, queries)
    scores = query_scores(Table(vectors, vectors.shape[1]), targets, train, queries)
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    assert np.unique(scores[:, 1][~np.isnan(scores[:, 1])]).tolist() == [0, 1]
    assert unanswerable(targets, train, queries) == np.isnan(scores[:, 0]).sum()


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_kernel_ranks_like_the_features(monkeypatch, shift):
    """Also one of features that were not centred, as the kernels of several rows side by side are."""
    vectors, targets, train, queries = example(np.random.default_rng(1), 6, p=60)
    expected = plain(vectors, targets, train, queries)
    monkeypatch.setattr(tables, "WIDE", 8)
    table = make_table(vectors.copy(), train)
    if shift:
        table = Table((vectors @ vectors[train].T).astype(np.float32), 60, is_kernel=True)
    assert table.is_kernel
    np.testing.assert_allclose(query_scores(table, targets, train, queries), expected, atol=2e-3)


@pytest.mark.parametrize("is_kernel", [False, True])
def test_equal_vectors_score_as_chance(is_kernel):
    """All tied: average precision is the share of relevant items, a hit the chance of drawing one."""
    targets = np.eye(2, dtype=bool)[[0, 0, 0, 1, 1, 0, 1]]
    train, queries = np.arange(5), np.array([5, 6])
    values = np.full((7, 5 if is_kernel else 3), 0.1, np.float32)
    scores = query_scores(Table(values, 3, is_kernel), targets, train, queries)
    np.testing.assert_allclose(scores, [[0.6, 0.6, 1, 1], [0.4, 0.4, 1, 1]])


def test_recall_with_ties_is_the_mean_over_their_orders():
    rng = np.random.default_rng(2)
    similarity = rng.integers(0, 4, (50, 9)).astype(np.float32)
    relevant = rng.random((50, 9)) < 0.25
    relevant[0] = False
    for depth in (1, 3, 5, 20):
        hits = np.zeros(50)
        for _ in range(4000):
            order = np.lexsort((rng.random(similarity.shape), -similarity))[:, :depth]
            hits += np.take_along_axis(relevant, order, 1).any(1)
        value = recall_at(similarity, relevant, depth)
        assert np.isnan(value[~relevant.any(1)]).all()
        some = relevant.any(1)
        np.testing.assert_allclose(value[some], hits[some] / 4000, atol=0.05)


def test_a_class_of_a_single_training_sequence_counts_by_its_rank():
    vectors = np.array([[1, 0], [0.9, 0.2], [-1, 0.1], [-0.9, -0.3], [-1, -0.2]], np.float32)
    targets = np.eye(3, dtype=bool)[[0, 1, 1, 2, 2]]
    scores = query_scores(Table(vectors, 2), targets, np.array([0, 1, 3]), np.array([2, 4]))
    expected = plain(vectors, targets, np.array([0, 1, 3]), np.array([2, 4]))
    np.testing.assert_allclose(scores, expected)
    assert scores[1].tolist() == [1, 1, 1, 1]  # the one of its class stands first


def test_metrics_leave_out_queries_without_an_answer_in_resamples_too():
    scores = np.array([[0.5, 1, 1, 1], [np.nan] * 4, [1.0, 0, 1, 1]])
    truth, counts = np.zeros((3, 1), bool), np.array([[1, 1, 1], [2, 1, 0], [0, 3, 0], [1, 0, 3]])
    metric = METRICS["map"][1]
    assert metric(truth, scores) == 0.75
    np.testing.assert_allclose(metric(truth, scores, counts), [0.75, 0.5, np.nan, 0.875])
    assert [METRICS[key][1](truth, scores) for key in METRICS] == [0.75, 0.5, 1, 1]


@pytest.mark.long
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_whole_run(tmp_path, task):
    result = compare(tmp_path, task, [*ROWS, *MATCHED], protocol="retrieval")
    results = result.results
    assert {label: results.by_label[label].num_features for label in MATCHED} == MATCHED
    assert results.probes == ("retrieval",)
    assert results.primary == "map"
    assert results.terms == ()
    assert list(results.metrics) == ["map", "recall_1", "recall_5", "recall_10"]
    data = read_table(tmp_path / "t.csv", task)
    vectors = Embedder.load(result.folder / "model" / "embedder").encode(list(data.sequences))
    score = results.by_label[results.best_second_order].probes["retrieval"]
    for split, value in (("test", score.test["map"].value), ("validation", score.validation)):
        expected = plain(vectors, data.targets, data.rows("train"), data.rows(split))
        assert value == pytest.approx(np.nanmean(expected[:, 0]), abs=1e-4)
    assert score.penalty == 0
    assert not score.at_edge
    assert score.validation_path == (score.validation,)
    assert results.contrasts["gain"].interval
    assert "mAP" in result.verdict
    lonely = unanswerable(data.targets, data.rows("train"), data.rows("test"))
    assert lonely == (~data.targets[data.rows("test")].any(1)).sum()  # a label of the table is in all splits
    warnings = [text for text in results.warnings if text.startswith(f"retrieval: {lonely} of 40 test sequences")]
    assert len(warnings) == (task == "multilabel")
    page = (result.folder / "report.html").read_text()
    assert "ranked by the cosine" in page
    assert "penalty of each" not in page
    assert not (result.folder / "predictions.csv").exists()
    assert not (result.folder / "model" / "probe").exists()
    with pytest.raises(InputError, match=r"embedder and no probe: covjax\.Embedder\.load"):
        Model.load(result.folder / "model")
    before = (result.folder / "results.json").read_bytes()
    compare(tmp_path, task, [*ROWS, *MATCHED], protocol="retrieval")
    assert (result.folder / "results.json").read_bytes() == before
    assert read_results(result.folder / "results.json") == results


def test_what_retrieval_refuses(tmp_path):
    with pytest.raises(
        InputError, match="protocol: retrieval needs classes or labels.*regression: use --protocol probes"
    ):
        compare(tmp_path, "regression", ROWS, protocol="retrieval")
    with pytest.raises(InputError, match="probes: 'ridge' is not used by --protocol retrieval; leave --probes out"):
        compare(tmp_path, "multiclass", ROWS, protocol="retrieval", probes=["ridge"])
    with pytest.raises(InputError, match="rows: 'attention' needs labels, which --protocol retrieval"):
        compare(tmp_path, "multiclass", [*ROWS, "attention"], protocol="retrieval")
    with pytest.raises(InputError, match="protocol: 'search' is not allowed; probes or retrieval"):
        compare(tmp_path, "multiclass", ROWS, protocol="search")


def test_rows_trained_on_labels_are_left_out():
    names = {recipe.name for recipe in choose_recipes(CompareConfig(protocol="retrieval", rows=("all",)), 32, True)}
    assert "log_covariance" in names
    assert not names & {"attention", "light_attention", "projected"}


def test_probes_keep_their_task(tmp_path):
    data = read_table(write_table(tmp_path / "t.csv", np.random.default_rng(0)))
    assert task_of(CompareConfig(), data).probes == ("logistic", "ridge")
