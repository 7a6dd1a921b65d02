"""The command on tables without groups: near copies counted in terminal and report; families and rare labels said."""

import json

import numpy as np
import pytest

from covjax.comparison import command
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from tests.test_unirep import random_weights

register_encoder("small", lambda dtype: UniRep(random_weights()))
OPTIONS = ["--encoder", "small", "--rows", "mean,mean_outer,covariance", "--trained", "", "--resamples", "100"]
OPTIONS += ["--penalties", "1e-3,1e-1,1", "--probes", "ridge", "--ranks", "2"]


def run(folder, rows, header, *options):
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    command.main(["--data", str(folder / "t.csv"), "--output", str(folder / "run"), *OPTIONS, *options])
    results = json.loads((folder / "run" / "results.json").read_text())
    return results, (folder / "run" / "report.html").read_text()


def family(rng, count, length=24):
    parent = rng.choice(list("ACDEFGHIKL"), length)
    out = []
    for i in range(count):
        child = parent.copy()
        child[i % length] = "MNPQ"[i // length % 4]
        out.append("".join(child))
    return out


def test_the_report_says_how_many_groups_near_copies_make(tmp_path, rng, capsys):
    sequences = [s for _ in range(40) for s in family(rng, 3)]
    rows = [f"{s},{'ab'[i // 3 % 2]}" for i, s in enumerate(sequences)]
    results, page = run(tmp_path, rows, "sequence,label")
    text = "near copies (over 90 % similar) are grouped: 40 groups of 120 sequences, the largest of 3"
    assert text in capsys.readouterr().out
    assert text in results["grouping"]
    assert text in page
    assert sum(results["groups"].values()) == 40
    assert not results["one_family"]
    assert "within one family" not in page


def test_a_mutant_library_is_marked_in_verdict_warnings_and_terminal(tmp_path, rng, capsys):
    rows = [f"{s},{'ab'[i % 2]}" for i, s in enumerate(family(rng, 90))]
    results, page = run(tmp_path, rows, "sequence,label")
    out = " ".join(capsys.readouterr().out.split())
    assert "second order helps here (within one family)." in out
    assert results["one_family"]
    assert any("within one family" in text and "--group-column" in text for text in results["warnings"])
    assert "second order helps here (within one family)." in page


def test_rare_labels_are_left_out_by_default_and_named(tmp_path, rng, capsys):
    labels = np.array(["x", "y", "x;y", ""])
    rows = [f"{family(rng, 1)[0]},{labels[i % 4]}{';rare' * (i < 6)}" for i in range(120)]
    results, _ = run(tmp_path, rows, "sequence,labels")
    text = "1 of 3 labels have fewer than 5 rows in some split and are left out (--min-positives 5): 'rare'"
    assert text in capsys.readouterr().out
    assert any(text in warning for warning in results["warnings"])
    assert results["num_targets"] == 2
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, rows, "sequence,labels", "--min-positives", "100", "--force")
    assert "0 of 3 labels have at least 100 rows" in capsys.readouterr().err
