"""The quickstart, run as written, and the numbers that docs/results.md shows."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.test_unirep import needs_weights


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-m", "eval.compare", "--config", "configs/quickstart.py", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((output / "results.json").read_text()), done.stdout, str(output)


@needs_weights
@pytest.mark.slow
def test_results_page_shows_what_the_command_finds(quickstart):
    """Each row of the page's table, to 0.002: another processor rounds float32 sums differently.

    Training carries such a difference further, so rows of the sparse autoencoder agree to 0.03.
    """
    results, _, _ = quickstart
    page = (ROOT / "docs" / "results.md").read_text()
    for row in results["rows"]:
        line = next(line for line in page.splitlines() if line.startswith(f"{row['label']:<26}"))
        shown = [float(number) for number in re.findall(r"(?<![\d,])[+-]?\d\.\d{3}", line)]
        expected = []
        for probe in ("logistic", "ridge"):
            score = row["probes"][probe]["test"]["auprc"]
            expected.append(score["value"])
            if row["label"] != "mean":
                expected += [score["difference"], *score["difference_interval"]]
        trained = row["label"] in ("sae_mean", "sae_cooccurrence")
        assert shown == pytest.approx(expected, abs=0.03 if trained else 0.002), row["label"]


@needs_weights
@pytest.mark.slow
def test_log_covariance_beats_mean_and_both_controls(quickstart):
    results, _, _ = quickstart
    rows = {row["label"]: row["probes"]["logistic"]["test"]["auprc"] for row in results["rows"]}
    log = rows["log_covariance"]
    assert log["difference_interval"][0] > 0
    assert log["value"] > max(rows["mean_outer"]["value"], rows["shuffled_log_covariance"]["value"]) + 0.02
    assert rows["shuffled_covariance"]["value"] < rows["covariance"]["value"]


@needs_weights
@pytest.mark.slow
def test_output_says_what_it_did_and_where_the_report_is(quickstart):
    _, out, folder = quickstart
    assert "features: 0 complete and reused, 21 to make" in out
    assert "report.html" in out
    assert all(len(line) <= 110 for line in out.splitlines() if folder not in line)  # a temporary folder is long
