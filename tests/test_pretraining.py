"""`eval.pretraining`: the comparisons of a training's snapshots side by side."""

from pathlib import Path

import matplotlib.image
import pytest

from covjax.comparison.results import dump
from covjax.errors import InputError
from covjax.jobs.folder import write_sealed
from eval.pretraining import main, read_runs
from tests.suite_examples import example


def save(folder: Path, step: int, second: float, data: str = "a", task: str = "multiclass", rows: int = 3) -> None:
    scores = {"mean": (0.1, 0.1), "mean_std": (0.2, 0.15), "sqrt_covariance": (0.3, second)}
    results = example("toy", dict([*scores.items()][:rows]), task)
    results.manifest["data"] = {"fingerprint": data}
    write_sealed(folder / str(step) / "results.json", dump(results))


def test_the_page_has_every_step_in_order_and_the_words_around_it_stay(tmp_path, capsys):
    for step, second in ((3000, 0.4), (0, 0.12), (500, 0.25)):
        save(tmp_path / "runs", step, second)
    page = tmp_path / "pretraining.md"
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path)]) == 0
    page.write_text(page.read_text() + "\nWhat it means.\n")
    save(tmp_path / "runs", 500, 0.26)
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path)]) == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith(("| 0 |", "| 500 |", "| 3,000 |"))]
    assert rows == [
        "| 0 | 0.100 | 0.150 (+0.050 [+0.030, +0.070]) | 0.120 (+0.020 [-0.000, +0.040]) |",
        "| 500 | 0.100 | 0.150 (+0.050 [+0.030, +0.070]) | 0.260 (+0.160 [+0.140, +0.180]) |",
        "| 3,000 | 0.100 | 0.150 (+0.050 [+0.030, +0.070]) | 0.400 (+0.300 [+0.280, +0.320]) |",
    ]
    assert page.read_text().endswith("What it means.\n")
    assert rows[1] in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "pretraining.png").std() > 0


def test_a_row_that_only_some_comparisons_have(tmp_path, capsys):
    save(tmp_path, 0, 0.2, rows=2)
    save(tmp_path, 500, 0.2)
    assert main([str(tmp_path), "--output", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[0] == "| 0 | 0.100 | 0.150 (+0.050 [+0.030, +0.070]) |  |"
    assert rows[1].endswith("| 0.200 (+0.100 [+0.080, +0.120]) |")


def test_what_cannot_be_shown_is_named(tmp_path, capsys):
    with pytest.raises(InputError, match=r"no subfolder named by a step"):
        read_runs(tmp_path)
    save(tmp_path, 0, 0.2)
    (tmp_path / "500").mkdir()
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == 2
    assert f"{tmp_path / '500'} has no results.json; finish its covjax compare" in capsys.readouterr().err
    save(tmp_path, 500, 0.2, data="b")
    with pytest.raises(InputError, match=r"500 was made of other data than .*0"):
        read_runs(tmp_path)
    save(tmp_path, 500, 0.2, task="regression")
    with pytest.raises(InputError, match=r"500 has ridge probe, R², and .*0 has ridge probe, MCC; compare both in one"):
        read_runs(tmp_path)
