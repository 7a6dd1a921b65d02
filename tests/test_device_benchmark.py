"""The device benchmark on a CPU: it runs with few packages, its fields are there, and it claims nothing."""

import json
import subprocess

import jax
import numpy as np
import pytest

from eval.benchmark import device
from eval.benchmark.common import device_cases as core
from eval.benchmark.common import device_models as models
from eval.benchmark.common.device_cases import PEAK, TINY, Case
from tests.conftest import ROOT

CORE = (core.projected, core.whole, core.masked_whole, core.packed, core.tucker, lambda *rest: core.sparse(16, *rest))


def run(folder, *options):
    return device.main(["--tiny", "--seconds=0", f"--output={folder}", *options])


def report(folder):
    return json.loads((folder / "device.json").read_text())


@pytest.mark.slow
def test_the_one_command_checks_everything_and_gives_no_figure(tmp_path):
    command = ["sh", "eval/benchmark/device.sh", "--tiny", "--seconds=0", f"--output={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = report(tmp_path)
    assert facts["smoke"]
    assert facts["failed"] == []
    assert len(facts["cases"]) == len(device.PLAN)
    for row in facts["cases"]:
        assert row["figures"] == {}  # no figure of an accelerator
        assert row["error"] is None or 0 <= row["error"] < row["tolerance"]
    assert all(target["value"] is target["met"] is None for target in facts["targets"])
    page = (tmp_path / "device.md").read_text()
    assert device.SMOKE in page
    assert page.strip() in done.stdout  # the tables last


@pytest.mark.long
def test_a_case_is_checked_timed_and_written(tmp_path):
    assert run(tmp_path, "--only=projected moment", "--only=√, small", "--profile") == 0
    facts = report(tmp_path)
    assert [row["case"] for row in facts["cases"]] == ["sqrt of 8 × 8", "projected moment"]
    for row in facts["cases"]:
        assert 0 < row["error"] < row["tolerance"]
        assert row["milliseconds"]["covjax"] > 0
        assert row["rounds"] == 5
        *operations, others = row["profile"]["covjax"]
        assert operations[0]["milliseconds"] > 0
        assert operations[0]["calls"] > 0
        assert others["operation"] == "others"


@pytest.mark.long
def test_what_does_not_fit_is_left_out_and_what_fails_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "--budget=0") == 0
    assert len([line for line in report(tmp_path)["left_out"] if "left out" in line]) >= len(device.PLAN)

    def fail(sizes, peer):
        raise MemoryError("out of memory")

    def wrong(sizes, peer):
        return Case("wrong", "", None, error=0.1, tolerance=0.01)

    plan = (device.Planned("bad", 1, fail), device.Planned("wrong", 1, wrong), device.Planned("whole", 1, core.whole))
    monkeypatch.setattr(device, "PLAN", plan)
    assert run(tmp_path) == 1
    facts = report(tmp_path)
    assert [row["case"] for row in facts["cases"]] == ["wrong", "whole moment"]
    assert facts["failed"] == ["bad: failed, MemoryError: out of memory", "wrong: error 1.0e-01 is over 1e-02"]
    assert "failed: bad" in capsys.readouterr().err


def test_a_cpu_is_no_accelerator(tmp_path, capsys):
    with pytest.raises(SystemExit):
        device.main([f"--output={tmp_path}"])
    assert "JAX sees a CPU alone" in capsys.readouterr().err


def test_without_pytorch_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_peer", lambda platform: (None, None, "no torch: figures are left out"))
    assert run(tmp_path, "--only=whole moment") == 0
    assert report(tmp_path)["left_out"] == ["no torch: figures are left out"]


@pytest.mark.parametrize("make", CORE)
def test_the_pytorch_peer_computes_the_same(make):
    pytest.importorskip("torch")
    from eval.benchmark.common.pytorch import Peer, device

    case = make(TINY, Peer(device("cpu"), compiles=False))
    assert case.error < case.tolerance
    theirs = np.asarray(case.peers["eager"]())
    if case.name != "packed moment":  # its padded batch holds tokens of its own
        np.testing.assert_allclose(jax.device_get(case.run()), theirs, rtol=3e-2, atol=3e-2)


def test_the_pytorch_peer_has_the_same_functions_of_matrices():
    pytest.importorskip("torch")
    from eval.benchmark.common.pytorch import Peer, device

    for kind in ("log", "sqrt"):
        case = models.spectral(kind, 0, TINY, Peer(device("cpu"), compiles=False))
        np.testing.assert_allclose(case.run(), case.peers["eager"](), atol=1e-4)


def test_shares_ratios_and_targets_from_given_times():
    peers = {"eager": None}
    case = Case("whole moment", "", None, error=0, tolerance=1, read=10, products=600, bound=PEAK, peers=peers)
    times = {"covjax": [2.0, 2.0], "copy": [1.0, 1.0], "matrix product a": [1.0, 1.0], "matrix product b": [0.5, 0.5]}
    times["eager"] = [3.0, 5.0]
    work = {"copy": 100.0, "matrix product a": 400.0, "matrix product b": 400.0}
    row = device.figures(case, times, work, smoke=False)
    assert row["figures"]["share of matrix peak"] == pytest.approx(300 / 800)  # 600 in 2 s of 800 a second
    assert row["figures"]["eager ÷ covjax"] == 2.0
    assert (row["copy_bytes_per_second"], row["matrix_operations_per_second"]) == (100, 800)
    rows = [row, {"case": "TopK step, 1536 features", "figures": {"eager ÷ covjax": 2.0}}]
    rows.append({"case": "ESM-2 650M, t ≤ 512", "figures": {"with Σ ÷ covjax": 1.2}})
    met = {(t["case"], t["what"]): t["met"] for t in device.targets(rows)}
    assert met["whole moment", "share of matrix peak"] is False
    assert met["TopK step, 1536 features", "eager ÷ covjax"] is True
    assert met["ESM-2 650M, t ≤ 512", "with Σ ÷ covjax"] is False  # at most 1.1
    assert met["projected moment", "share of copy bandwidth"] is None
