"""The page of ε: values are those of a comparison, and what is near the best fixed one is counted."""

import json

import pytest

from eval import eps
from eval.suite_task import open_task
from tests.test_suite_measures import finished, suite  # noqa: F401


def test_values_of_eps_are_those_of_the_comparison(suite, tmp_path):  # noqa: F811
    command = [str(suite), "--output", str(tmp_path)]
    assert eps.main([*command, "--tasks", "one"]) == 0
    assert eps.main([*command, "--tasks", "two", "--train", "20"]) == 0
    numbers = json.loads((tmp_path / "eps.json").read_text())
    earlier = dict(numbers)
    assert eps.main(command) == 0
    numbers = json.loads((tmp_path / "eps.json").read_text())
    assert {name: numbers[name] for name in earlier} == earlier
    assert set(numbers) == {"one", "two", "three"}
    row = open_task(suite / "one").results.by_label["log_covariance"]
    assert numbers["one"]["values"]["0.01"] == pytest.approx(row.probes["ridge"].validation, abs=1e-6)
    assert len(set(numbers["one"]["values"].values())) > 2
    assert (numbers["two"]["train"], numbers["two"]["of"]) == (20, open_task(suite / "two").results.sizes["train"])
    assert "| two (MCC) | 20 of " in (tmp_path / "eps.md").read_text()


def test_the_page_of_eps_counts_what_is_near_the_best_fixed_one():
    values = {"0.0001": 0.1, "0.001": 0.1, "0.01": 0.3, "0.03": 0.3, "0.1": 0.2, "1": 0.296, "auto": 0.31}
    entry = {"metric": "R²", "train": 9, "of": 9, "validation": 5, "values": values | {"auto + OAS": 0.2}}
    assert eps.best_fixed(entry) == "0.03"
    lines = eps.page({"a": entry, "b": entry | {"values": dict.fromkeys(eps.OPTIONS, 0.5)}})[0].splitlines()
    shown = "0.100 | 0.100 | 0.300 | **0.300** | 0.200 | 0.296 | 0.310 (+0.010) | 0.200 (-0.100) |"
    assert lines[2] == f"| a (R²) | 9 | 5 | {shown}"
    counts = "1 of 2 | 1 of 2 | 2 of 2 | 2 of 2 | 1 of 2 | 2 of 2 | 2 of 2 | 1 of 2 |"
    assert lines[4] == f"| within 0.005 of the best |  |  | {counts}"
    medians = "-0.100 | -0.100 | +0.000 | +0.000 | -0.050 | -0.002 | +0.005 | -0.050 |"
    assert lines[5] == f"| median minus best |  |  | {medians}"
    worst = "-0.200 | -0.200 | +0.000 | +0.000 | -0.100 | -0.004 | +0.000 | -0.100 |"
    assert lines[6] == f"| worst minus best |  |  | {worst}"
