"""Columns of numbers beside the sequences: read as they stand, compared as a row, and never the answer itself."""

import dataclasses

import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.comparison.config import SMALL_ROWS, CompareConfig, choose_recipes
from covjax.data import read_table

TABLE = "id,sequence,label,distance,type\na,ACGT,1.5,100,0\nb,ACGA,2.5,-2e3,1\nc,ACGC,3.5,0,0\n"


def table(tmp_path, text=TABLE, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_columns_are_read_in_the_order_named(tmp_path):
    path = table(tmp_path)
    data = read_table(path, covariates=("type", "Distance"))
    assert data.covariate_names == ("type", "distance")
    np.testing.assert_array_equal(data.covariates, [[0, 100], [1, -2000], [0, 0]])
    plain = read_table(path)
    assert plain.covariates is None
    others = dataclasses.replace(data, covariates=data.covariates + 1)
    assert len({each.fingerprint() for each in (plain, data, others)}) == 3


def test_rows_left_out_take_their_covariates_along(tmp_path):
    path = table(tmp_path, TABLE.replace("b,ACGA,2.5,-2e3", "b,ACGA,NA,none"))
    data = read_table(path, covariates=("distance",), missing="drop")
    assert data.ids == ("a", "c")
    np.testing.assert_array_equal(data.covariates, [[100], [0]])


def test_decimal_commas(tmp_path):
    data = read_table(table(tmp_path, "sequence;label;x\nACGT;1,5;0,25\nACGA;2,5;3\n"), covariates=("x",))
    np.testing.assert_array_equal(data.covariates, [[0.25], [3]])
    assert any("covariate 'x': decimal commas" in note for note in data.notes)


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        (("distanse",), TABLE, "covariates: no column 'distanse'; found id, sequence, label, distance, type"),
        (("distance", "DISTANCE"), TABLE, "covariates: column 'DISTANCE' is named twice"),
        (("label",), TABLE, "covariates: column 'label' is the label already; leave it out"),
        (
            ("type",),
            TABLE.replace("-2e3,1", "-2e3,far"),
            "line 3: column 'type' is 'far'; a covariate is a finite number",
        ),
        (("type",), TABLE.replace("-2e3,1", "-2e3,"), "line 3: column 'type' is empty; a covariate is a finite number"),
        (("type",), TABLE.replace("-2e3,1", "-2e3,inf"), "line 3: column 'type' is 'inf'"),
    ],
)
def test_what_is_no_covariate(tmp_path, names, text, message):
    with pytest.raises(InputError, match=message):
        read_table(table(tmp_path, text), covariates=names)


def test_rows_of_covariates():
    config = CompareConfig(covariates=("distance", "type"))
    extra = {"covariates", "composition+covariates"}
    names = lambda config, test=None, sequences=True: {
        row.name for row in choose_recipes(config, 32, False, test, sequences)
    }
    assert names(config) - names(CompareConfig()) == extra
    assert names(config, 5) == {*SMALL_ROWS, *extra}
    assert names(config, 5, sequences=False) == {*SMALL_ROWS, "covariates"} - {"composition"}
    named = dataclasses.replace(config, rows=("mean", "covariance"))
    assert names(named) == {"mean", "covariance", "covariates"}
    assert names(dataclasses.replace(named, rows=("mean", "covariance", "composition"))) >= extra
    rows = choose_recipes(config, 32, False)
    assert [row.name for row in rows if row.role == "composition"] == [
        "composition",
        "covariates",
        "composition+covariates",
    ]
    with pytest.raises(InputError, match="covariates: .* distinct names of columns"):
        CompareConfig(data="t.csv", covariates=("a", "a")).check()


@pytest.mark.long
def test_a_covariate_that_is_the_answer_wins_in_any_unit(tmp_path, rng):
    """The answer is a distance that no token knows, on a unit of its own beside noise of another."""
    count = 120
    distance, noise = rng.normal(size=count), rng.normal(size=count)
    lines = ["id,group,label,distance,noise"]
    lines += [f"s{i},g{i % 40},{2 * distance[i] + 5:.6f},{1e6 * distance[i]:.3f},{noise[i]:.6f}" for i in range(count)]
    path = table(tmp_path, "\n".join(lines) + "\n")
    tokens = {f"s{i}": rng.normal(size=(6, 3)).astype(np.float32) for i in range(count)}
    options = {"rows": ["mean", "covariance"], "resamples": 100, "ranks": [2]}
    result = covjax.compare(
        path, activations=tokens, output=tmp_path / "run", covariates=["distance", "noise"], **options
    )
    scores = result.results.scores()
    assert list(scores) == ["mean", "covariance", "covariates"]
    assert scores["covariates"].value > 0.99 > 0.5 > scores["mean"].value
    contrast = result.results.contrasts["over_composition"]
    assert contrast.other == "covariates"
    assert contrast.interval is not None
    assert contrast.interval[1] < 0
    assert result.results.by_label["covariates"].title == "covariates (distance, noise)"
    without = covjax.compare(path, activations=tokens, output=tmp_path / "without", **options).results
    assert without.scores()["mean"] == scores["mean"]
    assert without.scores()["covariance"] == scores["covariance"]
