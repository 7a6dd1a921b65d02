"""`results.json` is the dump of `Results`: read back the same, and another layout is refused by the entry's name."""

import json

import pytest

from covjax.comparison.results import Contrast, Results, Score, dump, load, read_results, side
from covjax.errors import InputError
from covjax.jobs.disk import sealed
from tests.suite_examples import changed, example
from tests.test_suite_summary import WINS


def test_what_is_written_is_read_back(tmp_path):
    seeds = changed(example("a", WINS), "rows", 2, "probes", "ridge", "test", "mcc", "seeds", value=[0.61, 0.63])
    (tmp_path / "results.json").write_text(sealed(seeds.dump()))
    back = read_results(tmp_path / "results.json")
    assert back == seeds
    assert isinstance(back.rows[2].probes["ridge"].test["mcc"], Score)
    assert back.rows[2].probes["ridge"].test["mcc"].seeds == (0.61, 0.63)
    assert isinstance(back.contrasts["gain"], Contrast)
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")


def test_the_keys_that_scripts_read():
    plain = json.loads(json.dumps(example("a", WINS).dump()))
    assert [row["label"] for row in plain["rows"]] == list(WINS)
    assert plain["rows"][2]["probes"]["ridge"]["test"]["mcc"]["value"] == 0.62
    assert (plain["best_second_order"], plain["primary"]) == ("sqrt_covariance", "mcc")
    assert "seeds" not in plain["rows"][0]["probes"]["ridge"]["test"]["mcc"]
    assert plain["rows"][0]["rank"] is None


def without(results, key):
    return {name: value for name, value in results.dump().items() if name != key}


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (lambda r: without(r, "contrasts"), "r.json: it lacks 'contrasts': not what this version of covjax writes"),
        (lambda r: r.dump() | {"old": 1}, "r.json: it has 'old'"),
        (lambda r: r.dump() | {"rows": [dump(r.rows[0]) | {"rank": "4"}]}, r"rows\[0\].rank is '4', not int"),
        (lambda r: r.dump() | {"one_family": 1}, "one_family is 1, not bool"),
        (lambda r: r.dump() | {"num_targets": True}, "num_targets is True, not int"),
        (lambda r: r.dump() | {"warnings": "none"}, "warnings is 'none', not tuple"),
        (lambda r: r.dump() | {"rows": [7]}, r"rows\[0\] is 7, not RowResult"),
        (
            lambda r: r.dump() | {"contrasts": {"gain": dump(r.contrasts["gain"]) | {"interval": [1.0]}}},
            "gain.interval",
        ),
        (lambda r: [], r"it is \[\], not Results"),
    ],
)
def test_another_layout_is_refused_by_the_name_of_the_entry(layout, message):
    with pytest.raises(InputError, match=message):
        load(Results, layout(example("a", WINS)), "r.json")


def test_sides_of_zero():
    cases = [(0.1, 0.2), (-0.2, -0.1), (0.0, 0.1), (-0.1, 0.0), None]
    assert [side(each) for each in cases] == ["above", "below", "undecided", "undecided", "no interval"]
