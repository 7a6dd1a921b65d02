"""One comparison over several real processes: the numbers of one process, what is reused, a process that is killed."""

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest

from covjax.comparison import compare
from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model
from covjax.data import read_table
from covjax.encoders.unirep import UniRep
from covjax.jobs import checkpoint
from tests.processes import finish, launch, start
from tests.test_compare import write_table  # registers the encoder "tiny"
from tests.test_unirep import random_weights

OPTIONS = {
    "ranks": [2],
    "bases": ["tucker"],
    "trained": ["attention"],
    "steps": 8,
    "seeds": [0],
    "sae_latents": 16,
    "sae_k": 2,
    "sae_steps": 5,
    "sae_pairs": 8,
    "components": [],
    "penalties": [1e-3, 1e-1, 1.0],
    "resamples": 100,
    "token_budget": 400,
    "rows": ["mean", "attention", "sae_mean", "sqrt_covariance", "tucker_covariance_2", "composition"],
}


def features(output, label):
    return checkpoint.load(output / "features" / label, {"values": 0})["values"]


def read(output):
    return json.loads((output / "results.json").read_text())


def alone(output, table, given=OPTIONS):
    """The comparison by this process."""
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    compare.compare(CompareConfig(data=str(table), output=str(output), encoder="tiny", **options))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same comparison by one process of one device, and by two of two devices."""
    folder = tmp_path_factory.mktemp("comparison")
    table = write_table(folder / "t.csv", np.random.default_rng(0))
    alone(folder / "one", table)
    lines = launch(["comparison", str(folder / "two"), str(table), json.dumps(OPTIONS)], processes=2, devices=2)
    return folder, table, lines


@pytest.mark.long
def test_two_processes_make_the_features_and_probes_of_one(runs):
    folder, _, lines = runs
    one, two = read(folder / "one"), read(folder / "two")
    assert [row["label"] for row in one["rows"]] == [row["label"] for row in two["rows"]]
    for label in OPTIONS["rows"]:
        if label not in ("attention", "sae_mean"):  # what is trained on other batches ends elsewhere
            a, b = features(folder / "one", label), features(folder / "two", label)
            np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max(), err_msg=label)
    for a, b in zip(one["rows"], two["rows"]):
        for name, fit in a["probes"].items():
            other = b["probes"][name]
            if a["label"] not in ("attention", "sae_mean"):
                assert fit["penalty"] == other["penalty"], (a["label"], name)
                np.testing.assert_allclose(fit["validation"], other["validation"], atol=0.06)
    reports = [line for line in lines[0].splitlines() if "report:" in line]
    assert len(reports) == 1
    assert "report:" not in lines[1]
    assert f"rows {len(one['rows'])}" in lines[1]
    for name in ("one", "two"):
        model = Model.load(folder / name / "model", UniRep(random_weights()))
        lines = (folder / name / "predictions.csv").read_text().splitlines()[1:]
        data = read_table(folder / "t.csv")
        predicted = model.predict(list(data.sequences))
        agreement = np.mean([line.split(",")[3] == label for line, label in zip(lines, predicted, strict=True)])
        assert agreement > 0.98  # of one process's tokens, of which two made other batches


@pytest.mark.long
def test_one_process_goes_on_with_what_two_left(runs, tmp_path, capsys):
    folder, table, _ = runs
    output = shutil.copytree(folder / "two", tmp_path / "two")
    for part in ("features/sqrt_covariance", "probes/sqrt_covariance", "probes/mean"):
        shutil.rmtree(output / part)
    (output / "results.json").unlink()
    alone(output, table)
    lines = capsys.readouterr().out
    assert "features: 5 complete and reused, 1 to make" in lines
    assert "probes: 4 complete and reused, 2 to fit" in lines
    before = {row["label"]: row["probes"] for row in read(folder / "two")["rows"]}
    after = {row["label"]: row["probes"] for row in read(output)["rows"]}
    assert before["composition"] == after["composition"]
    assert before["mean"]["ridge"]["validation"] == pytest.approx(after["mean"]["ridge"]["validation"], abs=1e-6)


@pytest.mark.long
def test_two_processes_share_the_folds_and_give_the_numbers_of_one(tmp_path):
    table = write_table(tmp_path / "t.csv", np.random.default_rng(0), label=lambda text: f"{text.count('A') / 9:.4f}")
    table.write_text("".join(line.rpartition(",")[0] + "\n" for line in table.read_text().splitlines()))  # no split
    options = OPTIONS | {"rows": ["mean", "sqrt_covariance", "composition"], "trained": [], "probes": ["ridge"]}
    options |= {"folds": 3, "repeats": 1}
    alone(tmp_path / "one", table, options)
    arguments = ["comparison", str(tmp_path / "two"), str(table), json.dumps(options)]
    launch(arguments, processes=2)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    for name in options["rows"]:
        values = [run["folds"]["values"][name]["ridge"]["r2"] for run in (one, two)]
        assert len(values[0]) == 3
        np.testing.assert_allclose(*values, atol=1e-3, err_msg=name)
    assert one["contrasts"].keys() == two["contrasts"].keys()
    assert one["contrasts"]
    for name, contrast in one["contrasts"].items():
        assert contrast["choices"] == two["contrasts"][name]["choices"]
        assert len(contrast["choices"]) == 3
    # Two processes again, of whose folds one has gone: each process sees that it has nothing, or one, to do.
    gone = tmp_path / "two" / "folds" / "3" / "repeat-1-fold-2.json"
    before = gone.read_bytes()
    gone.unlink()
    lines = launch(arguments, processes=2)
    assert "folds: 2 of 3 complete and reused, 1 to fit" in lines[0]
    assert gone.read_bytes() == before


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_then_goes_on(runs, tmp_path):
    folder, table, _ = runs
    options = json.dumps(OPTIONS | {"max_features_gib": 1e-9})  # one row a pass
    processes = start(["comparison", str(tmp_path / "out"), str(table), options, "1.5"], processes=2)
    while not list((tmp_path / "out").glob("features/*/_CHECKPOINT_METADATA")):
        assert processes[1].poll() is None
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    done = finish(processes)
    assert done[0][0] not in (0, 2)
    assert not (tmp_path / "out" / "results.json").exists()
    lines = launch(["comparison", str(tmp_path / "out"), str(table), options], processes=2)
    assert int(re.search(r"features: (\d+) complete and reused", lines[0])[1]) > 0
    assert len(read(tmp_path / "out")["rows"]) == len(read(folder / "one")["rows"])
