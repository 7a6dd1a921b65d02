"""Measures on the tasks of a finished suite: a task is opened as it was, and the page of collapse."""

import json
import shutil

import matplotlib.image
import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.comparison.config import CompareConfig
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from covjax.tasks.configs import TASK_CONFIGS
from eval import collapse
from eval.suite_task import find_tasks, open_task
from tests.test_compare import write_table
from tests.test_unirep import random_weights

register_encoder("suite-unirep", lambda dtype: UniRep(random_weights()))
NAMES = ("one", "two", "three")
OPTIONS = {"encoder": "suite-unirep", "rows": ("mean", "sqrt_covariance", "log_covariance"), "probes": ("ridge",)}
OPTIONS |= {"ranks": (2,), "penalties": (1e-3, 1e-1, 1.0), "resamples": 100, "trained": (), "name": "toy, suite-unirep"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for name in NAMES:
        (folder / name).mkdir()
        rng = np.random.default_rng(len(NAMES) * NAMES.index(name))
        table = write_table(folder / name / "t.csv", rng, 150, "sequence,label,split", None)
        covjax.compare(table, output=folder / name, **OPTIONS)
    return folder


@pytest.fixture
def suite(finished, monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(TASK_CONFIGS, name, lambda: CompareConfig(**OPTIONS))
    return finished


def test_a_task_is_opened_with_its_table_splits_and_tokens(suite):
    assert [folder.name for folder in find_tasks(suite)] == sorted(NAMES)
    assert [folder.name for folder in find_tasks(suite, "two,one")] == ["two", "one"]
    task = open_task(suite / "two")
    assert (task.name, len(task.data)) == ("two", 150)
    assert len(task.data.rows("train")) == task.results.sizes["train"]
    assert len(task.source.tokens(task.data, None)) == 150


def test_what_cannot_be_opened_is_named(suite, tmp_path):
    with pytest.raises(InputError, match="no results in .*make them with covjax tasks all"):
        find_tasks(tmp_path)
    with pytest.raises(InputError, match=r"tasks: 'four' has no results in .*; there are one, three, two"):
        find_tasks(suite, "one,four")
    shutil.copytree(suite / "one", tmp_path / "nameless")
    with pytest.raises(InputError, match="'nameless' is not built in"):
        open_task(tmp_path / "nameless")
    shutil.copytree(suite / "one", tmp_path / "three")
    shutil.copy(suite / "three" / "t.csv", tmp_path / "three" / "t.csv")
    with pytest.raises(InputError, match=r"t.csv is not the table of .*results.json; run the task again"):
        open_task(tmp_path / "three")


def test_pairs_are_distinct_and_every_sequence_is_in_as_many():
    for count, each in ((400, 10), (11, 10), (5, 4), (3, 2)):
        pairs = collapse.draw_pairs(count)
        assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
        assert (np.bincount(pairs.ravel()) == each).all()


def test_the_measures_are_means_over_pairs_of_standardised_or_raw_tokens(suite):
    task = open_task(suite / "one")
    numbers = collapse.measure(task, 20)
    rows = np.random.default_rng(0).choice(task.data.rows("train"), 20, replace=False)
    tokens = task.source.tokens(task.data, None)
    list(tokens.walk("encode"))
    raw = tokens.kept(rows)
    every = np.concatenate(raw)
    for kind, arrays in (("raw", raw), ("standardised", [(x - every.mean(0)) / every.std(0) for x in raw])):
        values = [covjax.second_order_collapse(arrays[i], arrays[j]) for i, j in collapse.draw_pairs(20)]
        for name, column in zip(values[0]._fields, np.transpose(values)):
            assert numbers[kind][name]["value"] == pytest.approx(column.mean(), rel=1e-3)
            low, high = numbers[kind][name]["interval"]
            assert low < column.mean() < high
        assert numbers[kind]["above_1"] == np.mean([each.covariance_distance > 1 for each in values])
        spread = [x.var(0).sum() / (x.mean(0) ** 2).sum() for x in arrays]
        assert numbers[kind]["concentration"]["value"] == pytest.approx(np.median(spread), rel=1e-3)
    assert (numbers["sequences"], numbers["pairs"]) == (20, 100)


def test_the_page_of_collapse_has_a_line_for_each_task_that_was_measured(suite, tmp_path, capsys):
    command = [str(suite), "--sequences", "12", "--output", str(tmp_path)]
    assert collapse.main([*command, "--tasks", "one"]) == 0
    first = json.loads((tmp_path / "collapse.json").read_text())["one"]
    assert collapse.main([*command, "--tasks", "two,three"]) == 0
    numbers = json.loads((tmp_path / "collapse.json").read_text())
    assert numbers["one"] == first
    page = (tmp_path / "collapse.md").read_text()
    results = {name: open_task(suite / name).results for name in numbers}
    lines = [line.split(" | ")[0][2:] for line in page.splitlines() if "suite-unirep" in line]
    assert lines == sorted(numbers, key=lambda name: numbers[name]["raw"]["socm"]["value"])
    assert f"{results['one'].scores()['log_covariance'].difference:+.3f}" in page
    assert "| SOCM, standardised tokens |" in page
    assert matplotlib.image.imread(tmp_path / "collapse.png").std() > 0
    with pytest.raises(SystemExit):
        collapse.main([str(suite), "--sequences", "2"])
    assert "--sequences: 2; at least 3" in capsys.readouterr().err
