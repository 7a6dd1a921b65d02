"""The suite's numbers against values computed by hand on small made-up results."""

import json

import numpy as np
import pytest

from covjax.comparison.scoring import contrasts, planned_pairs
from covjax.metrics import bootstrap_p_value
from covjax.tasks.summary import (
    average_ranks,
    compactness,
    decomposition,
    headline,
    losses,
    planned,
    rank_curves,
    relative_r2,
    summarise_suite,
)
from tests.suite_examples import changed, example

WINS = {
    "mean": (0.50, 0.40),
    "mean_std": (0.55, 0.45),
    "covariance": (0.70, 0.62),
    "sqrt_covariance": (0.80, 0.60),
    "pca_covariance_2": (0.30, 0.20),
    "pca_covariance_4": (0.45, 0.35),
    "mean_outer": (0.60, 0.46),
    "mean+mean_outer": (0.58, 0.50),
    "shuffled_covariance": (0.40, 0.30),
    "shuffled_sqrt_covariance": (0.65, 0.47),
    "composition": (0.20, 0.10),
}
LOSES = {"mean": (0.5, 0.5), "sqrt_covariance": (0.6, 0.45), "mean_outer": (0.55, 0.52), "composition": (0.7, 0.6)}


def test_choices_are_made_on_validation_and_the_parts_form_a_chain():
    rows = example("wins", WINS).rows
    assert planned_pairs(rows, "mean", "ridge") == {
        "gain": ("sqrt_covariance", "mean"),  # covariance Σ is higher on the test set
        "over_baseline": ("sqrt_covariance", "mean_std"),
        "over_control": ("sqrt_covariance", "shuffled_sqrt_covariance"),
        "over_composition": ("sqrt_covariance", "composition"),
        "whole_gain": ("sqrt_covariance", "mean"),
        "quadratic": ("mean_outer", "mean"),  # mean + μμᵀ is higher on the test set
        "marginal": ("shuffled_sqrt_covariance", "mean_outer"),
        "co_occurrence": ("sqrt_covariance", "shuffled_sqrt_covariance"),
    }


def test_decomposition_by_hand_adds_up():
    (entry,) = decomposition({"wins": example("wins", WINS)})
    assert entry["whole_gain"]["value"] == pytest.approx(0.20)
    assert entry["quadratic"]["value"] == pytest.approx(0.06)
    assert entry["marginal"]["value"] == pytest.approx(0.01)
    assert entry["co_occurrence"]["value"] == pytest.approx(0.13)
    parts = sum(entry[name]["value"] for name in ("quadratic", "marginal", "co_occurrence"))
    assert parts == pytest.approx(entry["whole_gain"]["value"], abs=1e-12)
    assert entry["whole_gain"]["interval"] == pytest.approx((0.18, 0.22))
    assert entry["co_occurrence"]["interval"] is None  # no resamples, and not against the reference


def test_a_control_that_does_not_help_on_validation_takes_no_part():
    scores = WINS | {"mean_outer": (0.50, 0.9), "mean+mean_outer": (0.4, 0.9), "shuffled_sqrt_covariance": (0.3, 0.9)}
    (entry,) = decomposition({"t": example("t", scores)})
    for name in ("quadratic", "marginal"):
        assert (entry[name]["value"], entry[name]["interval"], entry[name]["p_value"]) == (0, (0, 0), 1)
    assert entry["co_occurrence"]["other"] == "mean"  # a tie with the mean goes to the mean
    assert entry["co_occurrence"]["value"] == pytest.approx(entry["whole_gain"]["value"])


def test_no_decomposition_without_a_twin_or_a_quadratic_control():
    assert (
        decomposition(
            {"t": example("t", {k: WINS[k] for k in ("mean", "sqrt_covariance", "shuffled_sqrt_covariance")})}
        )
        == []
    )
    assert decomposition({"t": example("t", LOSES)}) == []


def test_paired_draws_give_intervals_and_p_values(rng):
    rows = example("wins", WINS).rows
    common = rng.normal(size=999)  # the pairing: what all rows share cancels
    draws = {label: common + test + 0.001 * rng.normal(size=999) for label, (_, test) in WINS.items()}
    found = contrasts(rows, "mean", "ridge", "mcc", draws, 99)
    low, high = found["over_control"].interval
    assert low < 0.13 < high < low + 0.01
    assert found["over_control"].p_value == pytest.approx(2 / 1000)
    np.testing.assert_allclose(
        found["marginal"].interval,
        np.quantile(draws["shuffled_sqrt_covariance"] - draws["mean_outer"], [0.025, 0.975]),
    )


def test_bootstrap_p_value_counts_the_smaller_side_and_is_never_zero():
    assert bootstrap_p_value(np.array([1.0, 2, 3, -1]), 99) == pytest.approx(2 * 2 / 5)
    assert bootstrap_p_value(np.array([-1.0, -2, np.nan, -3]), 99) == pytest.approx(2 * 1 / 4)
    assert bootstrap_p_value(np.zeros(9), 99) == 1


def test_p_values_of_no_effect_are_uniform(rng):
    # The sampling distribution of a mean and its bootstrap: p is below α in a share α of the experiments.
    draws = rng.normal(size=(400, 1)) + rng.normal(size=(400, 999))
    p = np.array([bootstrap_p_value(each, 99) for each in draws])
    assert abs((p <= 0.2).mean() - 0.2) < 0.06


def test_planned_comparisons_are_corrected_over_tasks_that_have_a_p_value():
    tasks = {"a": example("a", WINS), "b": example("b", LOSES), "c": example("c", WINS)}
    tasks["c"] = changed(tasks["c"], "contrasts", "gain", "p_value", value=None)
    found = {entry["task"]: entry for entry in planned(tasks)["gain"]}
    assert [found[key]["p_value"] for key in "abc"] == [0.01, 0.01, None]
    assert [found[key]["p_holm"] for key in "abc"] == [0.02, 0.02, None]
    assert [found[key]["verdict"] for key in "abc"] == ["above", "below", "above"]
    assert {entry["verdict"] for entry in planned(tasks)["over_control"]} == {"no interval"}


def test_contrasts_in_the_results_are_used_as_they_stand():
    stored = {
        "gain": {"row": "sqrt_covariance", "other": "mean", "value": 0.3, "interval": [0.1, 0.5], "p_value": 0.004}
    }
    (entry,) = planned({"t": example("t", WINS, contrasts=stored)})["gain"]
    assert (entry["value"], entry["p_holm"]) == (0.3, 0.004)


def test_headline_marks_the_best_on_the_test_set_and_the_chosen_row():
    (entry,) = headline({"t": example("t", WINS)})
    assert (entry["best"], entry["chosen"]) == ("covariance", "sqrt_covariance")
    assert "pca_covariance_4" not in entry["cells"]
    assert entry["cells"]["composition"]["difference"] == pytest.approx(-0.3)
    (entry,) = headline({"t": example("t", WINS | {"pca_covariance_4": (0.9, 0.9)})})
    assert entry["chosen"] == entry["best"] == "pca_covariance_4"


def test_ranks_are_over_the_rows_that_all_tasks_have():
    found = average_ranks({"a": example("a", WINS), "b": example("b", LOSES)})
    # a: sqrt Σ 1, μμᵀ 2, mean 3, composition 4; b: composition 1, μμᵀ 2, mean 3, sqrt Σ 4.
    assert found["ranks"] == {"mean_outer": 2, "sqrt_covariance": 2.5, "composition": 2.5, "mean": 3}
    assert found["chi_square"] == pytest.approx(12 * 2 / 20 * (4 + 6.25 + 6.25 + 9 - 25))
    assert "1 tasks" in average_ranks({"a": example("a", WINS)})["missing"]


def test_rank_curves_end_with_the_whole_matrix():
    scores = WINS | {"pca_sqrt_covariance_2": (0.1, 0.3)}
    (entry,) = rank_curves({"t": example("t", scores), "u": example("u", LOSES)})
    assert [(p["rank"], p["value"], p["whole"]) for p in entry["curves"]["pca_covariance"]] == [
        (2, 0.20, False),
        (4, 0.35, False),
        (8, 0.62, True),
    ]
    assert [p["value"] for p in entry["curves"]["pca_sqrt_covariance"]] == [0.3, 0.60]
    assert entry["reference"] == 0.40


def test_compactness_is_the_share_of_the_whole_gain():
    (entry,) = compactness({"t": example("t", WINS | {"pca_covariance_4": (0.45, 0.55)})}, limit=10)
    assert entry["compact"]["row"] == "pca_covariance_4"
    assert entry["whole"]["row"] == "sqrt_covariance"
    assert entry["share"] == pytest.approx(0.15 / 0.20)
    (entry,) = compactness({"t": example("t", LOSES)})
    assert entry["share"] is None
    assert compactness({"t": example("t", LOSES)}, limit=10) == []


def test_relative_r2_is_in_percent_of_the_mean():
    tasks = {"a": example("a", WINS, task="regression"), "b": example("b", WINS)}
    (entry,) = relative_r2(tasks)
    assert entry["rows"]["covariance"]["percent"] == pytest.approx(55)
    assert entry["rows"]["pca_covariance_2"]["percent"] == pytest.approx(-50)
    tasks["a"] = example("a", WINS | {"mean": (0.1, -0.01)}, task="regression")
    assert relative_r2(tasks)[0]["rows"]["sqrt_covariance"]["percent"] is None


def lost_to_composition():
    return changed(example("b", LOSES), "contrasts", "over_composition", "interval", value=[-0.2, -0.1])


def test_losses_name_what_is_not_above_and_only_facts_the_numbers_support():
    lost = example("b", LOSES, sizes={"train": 30, "validation": 9, "test": 9, "median_tokens": 7})
    (entry,) = losses({"a": example("a", WINS), "b": lost})
    assert entry["task"] == "b"
    assert [each["name"] for each in entry["not_above"]] == ["gain", "over_control", "over_composition"]
    assert entry["not_above"][0]["verdict"] == "below"
    facts = " ".join(entry["facts"])
    # Without an interval of the difference to composition nothing is said to be decided.
    assert facts.startswith("composition, which never sees the encoder, reaches 0.600, and mean 0.500")
    assert "mean_outer, a control, reaches 0.520 on the test set" in facts
    assert "(+0.100 over mean) did not carry over" in facts
    assert "36 features on 30 training sequences" in facts
    assert "at most 7 tokens for 8 features" in facts
    assert "edge" not in facts
    (entry,) = losses({"b": lost_to_composition()})
    assert entry["facts"][0].startswith("k-mer content decides: composition")
    assert "wide" not in facts  # the interval excludes zero: its width explains nothing


def test_an_undecided_gain_states_what_its_interval_rests_on():
    undecided = LOSES | {"sqrt_covariance": (0.6, 0.51)}
    (entry,) = losses({"t": example("t", undecided, groups={"test": 7})})
    assert entry["not_above"][0]["verdict"] == "undecided"
    assert "7 test groups leave an interval 0.040 wide" in entry["facts"]


def test_losses_against_a_control_alone_are_not_called_co_occurrence():
    scores = WINS | {"shuffled_sqrt_covariance": (0.75, 0.61)}
    result = changed(example("t", scores), "rows", 3, "probes", "ridge", "at_edge", value=True)
    (entry,) = losses({"t": result})
    assert [each["name"] for each in entry["not_above"]] == ["over_control"]
    assert "not shown to be co-occurrence: shuffled_sqrt_covariance" in entry["facts"][0]
    assert any("its penalty, 0.1, is at the edge" in fact for fact in entry["facts"])
    assert not any("k-mer" in fact for fact in entry["facts"])


def test_summary_is_json_and_tolerates_tasks_without_second_order_rows():
    bare = example("bare", {"mean": (0.5, 0.5), "mean_std": (0.6, 0.6)})
    summary = summarise_suite({"bare": bare, "a": example("a", WINS)})
    assert json.loads(json.dumps(summary)) is not None
    assert summary["headline"][0]["chosen"] is None
    assert [entry["task"] for entry in summary["planned"]["gain"]] == ["a"]
    assert summary["losses"] == []
