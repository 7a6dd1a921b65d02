"""The accelerator benchmark on a CPU: it runs with few packages, its fields are there, and it claims nothing."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from eval.benchmark import accelerator
from eval.benchmark._accelerator_cases import PEAK, Case, Sizes, make_cases
from tests.conftest import ROOT

TINY = Sizes(tokens=64, features=16, rank=4, sequences=3, batch=16, latents=32, k=4, matmul=32)
# Runs a module where no package but jax, flax, optax, numpy and theirs can be imported.
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "matplotlib", "scipy", "transformers", "safetensors", "tqdm", "grain"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "eval.benchmark"
runpy.run_module("eval.benchmark", run_name="__main__")
"""


def test_a_smoke_run_with_few_packages_checks_everything_and_gives_no_figure(tmp_path):
    sizes = [f"--{name}={value}" for name, value in vars(TINY).items()]
    rest = ["--copy-mebibytes=1", "--seconds=0", "--batch-seconds=0", f"--output={tmp_path}"]
    command = [sys.executable, "-c", ALONE, "accelerator", *sizes, *rest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "PyTorch is not installed" in done.stderr
    report = json.loads((tmp_path / "accelerator.json").read_text())
    assert report["smoke"]
    assert [row["case"] for row in report["cases"]] == [
        *("projected moment", "whole moment", "whole moment, masked tokens", "packed moment"),
        *("Tucker step", "TopK step"),
    ]
    for row in report["cases"]:
        assert 0 < row["error"] < row["tolerance"]
        assert row["milliseconds"] > 0
        assert row["rounds"] == 5
        assert row["share"] is row["copy_bytes_per_second"] is row["matrix_operations_per_second"] is None
    assert [(t["least"], t["value"], t["met"]) for t in report["targets"]] == [(v, None, None) for v in (0.8, 0.7, 1.2)]
    text = (tmp_path / "accelerator.md").read_text()
    assert accelerator.SMOKE in text
    assert text.count("not measured") == 3


def test_the_pytorch_peer_computes_the_same():
    pytest.importorskip("torch")
    from eval.benchmark._torch import Peer, device

    for case in make_cases(TINY, Peer(device("cpu"), compiles=False)):
        theirs = np.asarray(case.peers["eager"]())
        if case.name != "packed moment":  # its padded batch holds tokens of its own
            np.testing.assert_allclose(jax.device_get(case.run()), theirs, rtol=3e-2, atol=3e-2)


def test_shares_ratios_and_targets_from_given_times():
    case = Case(
        "whole moment", "", run=None, read=10, products=600, bound=PEAK, error=0, tolerance=1, peers={"eager": 0}
    )
    times = {"covjax": [2.0, 2.0], "copy": [1.0, 1.0], "a": [1.0, 1.0], "b": [0.5, 0.5], "eager": [3.0, 5.0]}
    row = accelerator.figures(case, times, {"copy": 100.0, "a": 400.0, "b": 400.0}, smoke=False)
    assert row["share"] == pytest.approx(300 / 800)  # 600 operations in 2 s where the faster product does 800 a second
    assert row["ratios"] == {"eager": 2.0}
    assert (row["copy_bytes_per_second"], row["matrix_operations_per_second"]) == (100, 800)
    rows = [row, row | {"case": "projected moment", "share": 0.9}, row | {"case": "TopK step"}]
    assert [t["met"] for t in accelerator.targets(rows)] == [True, False, True]
