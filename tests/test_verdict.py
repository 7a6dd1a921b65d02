"""The answer in a sentence and a table of one screen, from results alone: every kind of evidence, ties, numbers."""

import dataclasses

import pytest

from covjax.comparison.page import number, signed
from covjax.comparison.results import Results, load
from covjax.comparison.verdict import EVIDENCE, answer, evidence, table, verdict

SIZE = {"num_features": 51360}
FIELDS = {
    **{"name": "made up", "task": "multiclass", "reference": "mean", "primary": "mcc", "primary_name": "MCC"},
    **{"metrics": {"mcc": "MCC"}, "probes": ["logistic"], "sizes": {}, "groups": {}, "num_targets": 2},
    **{"encoder_features": 8, "matched_rank": 3, "composition_unit": "letter", "terms": [], "test_looks": 1},
    **{"grouping": "", "one_family": False, "warnings": [], "manifest": {}, "best_second_order": "log_covariance"},
}


def row(name, role, value, difference, low, high, validation=0.5):
    score = {"value": value, "interval": [value, value], "difference": difference, "difference_interval": [low, high]}
    fit = {"validation": validation, "penalty": 1.0, "test": {"mcc": score}, "per_term": {}, "validation_path": []}
    probes = {"logistic": fit | {"at_edge": False, "converged": True}}
    return {"label": name, "title": name, "role": role, "family": "", "rank": None, "probes": probes} | SIZE


def make(
    gain=(0.1, 0.05, 0.15),
    baseline=("max", 0.1, 0.05, 0.15),
    control=("mean_outer", 0.1, 0.05, 0.15),
    composition=None,
    others=(),
    **more,
):
    rows = [row("mean", "baseline", 0.5, 0.0, 0.0, 0.0), row("max", "baseline", 0.4, -0.1, -0.2, 0.1)]
    rows += [row("log_covariance", "second order", 0.6, *gain), row("mean_outer", "control", 0.5, 0.0, -0.1, 0.1)]
    planned = {"gain": {"other": "mean", "value": gain[0], "interval": list(gain[1:])}}
    rows += others
    for name, contrast in (
        ("over_baseline", baseline),
        ("over_control", control),
        ("over_composition", composition),
    ):
        if contrast:
            other, value, *interval = contrast
            planned[name] = {"other": other, "value": value, "interval": interval or None}
    planned = {name: {"row": "log_covariance", "p_value": None} | each for name, each in planned.items()}
    return load(Results, FIELDS | {"rows": rows, "contrasts": planned} | more, "made up")


@pytest.mark.parametrize(
    ("results", "kind"),
    [
        (make(), "co-occurrence"),
        (make(gain=(0.1, -0.01, 0.2)), "none"),
        (make(gain=(0.1, 0.0, 0.2)), "none"),
        (make(gain=(-0.1, -0.2, -0.01)), "none"),
        (make(baseline=("max", 0.1, -0.05, 0.15)), "marginals"),
        (make(baseline=("first", 0.1, -0.05, 0.15)), "position"),
        (make(baseline=("cls", -0.1, -0.2, -0.15)), "position"),
        (make(baseline=("regional_mean", 0.1, -0.05, 0.15)), "position"),
        (make(baseline=("kernel_mean", 0.1, -0.05, 0.15)), "distribution"),
        (make(baseline=("mean_rbf", 0.1, -0.05, 0.15)), "probe"),
        (make(baseline=("attention_4_queries", 0.1, -0.05, 0.15)), "training"),
        (make(baseline=("light_attention", 0.1, -0.05, 0.15)), "training"),
        (make(baseline=("sae_mean", 0.1, -0.05, 0.15)), "distribution"),
        (make(control=("mean_outer", 0.1, -0.05, 0.15)), "quadratic"),
        (make(control=("shuffled_log_covariance", 0.1, 0.0, 0.15)), "marginals"),
        (make(control=None), "open"),
        (make(control=None, baseline=("max", 0.1, -0.05, 0.15)), "marginals"),
        (make(baseline=None), "co-occurrence"),
        (make(control=("mean_outer", 0.1)), "quadratic"),  # an interval that is not known is not above 0
    ],
)
def test_evidence_is_named_in_the_sentence(results, kind):
    assert evidence(results) == kind
    assert EVIDENCE[kind] in verdict(results)
    assert verdict(results).endswith(".")


@pytest.mark.parametrize(
    ("interval", "how"),
    [((-0.05, 0.15), "does as well"), ((-0.15, -0.05), "does better"), ((0.01, 0.15), ""), ((), "")],
)
def test_a_row_without_the_encoder_that_does_as_well_is_named(interval, how):
    rows = [row("composition", "composition", 0.55, 0.05, 0.0, 0.1)]
    results = make(composition=("composition", 0.05, *interval), others=rows)
    assert evidence(results) == "co-occurrence"  # of the tokens; whether they are needed is another question
    if how:
        ends = "[{:+.3f}, {:+.3f}]".format(*interval)
        sentence = f"The row composition, which sees no token, {how}: +0.050 {ends} for the chosen pool."
        assert verdict(results) == f"{verdict(make())} {sentence}"
        assert answer(results) == f"{answer(make())} But composition, without the model, {how}: 0.550."
    else:
        assert (verdict(results), answer(results)) == (verdict(make()), answer(make()))


def test_folds_that_chose_several_rows_without_the_encoder():
    rows = [row(name, "composition", 0.55, 0.05, 0.0, 0.1) for name in ("composition", "covariates")]
    results = make(composition=("composition", 0.05, -0.05, 0.15), others=rows)
    contrast = results.contrasts["over_composition"]
    choices = tuple(("log_covariance", name) for name in ("covariates", "composition", "covariates"))
    results.contrasts["over_composition"] = dataclasses.replace(contrast, choices=choices)
    assert verdict(results).endswith(
        " The row that sees no token (covariates in 2 of 3 folds) does as well: +0.050 "
        "[-0.050, +0.150] for the chosen pool."
    )
    assert answer(results).endswith("But covariates, without the model, does as well: 0.550.")


def test_the_whole_sentence():
    assert verdict(make()) == (
        "Validation chose log_covariance: test MCC 0.600, +0.100 [+0.050, +0.150] over the mean; +0.100 [+0.050, "
        "+0.150] over the strongest other first-order pool, max; +0.100 [+0.050, +0.150] over the strongest control, "
        "mean_outer. That is evidence of co-occurrence: no first-order pool and no control does as well."
    )
    worse = verdict(make(gain=(-0.1, -0.2, -0.01), one_family=True))
    assert worse.endswith("no evidence that second order helps here: the mean is better (within one family).")


def test_results_without_contrasts_are_answered_from_their_rows():
    results = make(contrasts={})
    assert evidence(results) == "none"
    assert verdict(results).startswith("Validation chose log_covariance: test MCC 0.600, +0.100 [+0.050, +0.150] over")


def test_an_end_that_rounds_to_zero_shows_on_which_side_it_is():
    assert "[+0.050, +0.150]" in verdict(make(gain=(0.1, 0.05, 0.15)))
    assert "+0.100 [+4e-04, +0.150]" in verdict(make(gain=(0.1, 0.0004, 0.15)))
    assert "+0.100 [-4e-04, +0.150]" in verdict(make(gain=(0.1, -0.0004, 0.15)))
    assert evidence(make(gain=(0.1, 0.0004, 0.15))) == "co-occurrence"
    assert signed(0.0) == "+0.000"


@pytest.mark.parametrize("value", [0, 4e-7, 0.00049, 0.0005, 0.12345, 9.9999, 12.34, 99.999, 123.4, 98765.4, 3e7, 1e12])
def test_numbers_take_few_columns_and_keep_their_sign(value):
    for each in (value, -value):
        assert len(signed(each)) <= 7
        assert (float(signed(each)) > 0) == (each > 0)
        assert float(signed(each)) == pytest.approx(each, rel=0.5, abs=5e-4)
        assert len(number(each)) <= 10


@pytest.mark.parametrize("size", [1.0, 1234567.0])
def test_the_table_has_ten_rows_and_80_columns(size):
    names = [f"log_covariance_{1024 + i}_components" for i in range(30)]
    results = make(others=[row(name, "second order", -size, -size, -size, size, validation=0.4) for name in names])
    lines = table(results).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2 + 10 + 1
    for name in ("mean", "max", "log_covariance", "mean_outer"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert lines[-1] == "* chosen on validation; logistic probe; 24 more rows: --all"
    (chosen,) = [line for line in lines[2:-1] if "*" in line]
    assert chosen.startswith("log_covariance ")
    assert len(table(results, every=True).splitlines()) == 2 + 34 + 1
    assert "more rows" not in table(results, every=True)
