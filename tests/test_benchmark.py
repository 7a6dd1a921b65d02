"""The benchmark's arithmetic and its command, on small inputs; no speed is asserted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from covjax import projected_moment, second_moment
from covjax.data import read_table
from covjax.pooling.learned import attention_covariance_matrices
from eval.benchmark import autoencoders, many, metrics
from eval.benchmark.common import runner

ROOT = Path(__file__).resolve().parent.parent


def test_ratios_pair_rounds_and_every_round_runs_everything():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    times = runner.interleave({n: lambda n=n: count(n) for n in calls}, seconds=0, minimum=3)
    assert calls == {"a": 4, "b": 4}
    assert len(times["a"]) == len(times["b"]) == 3
    assert runner.median_ratio({"s": [2, 30, 8], "f": [1, 10, 2]}, "s", "f") == 3
    assert runner.milliseconds({"f": [1, 3, 2]}, "f") == 2000


def test_the_page_keeps_the_words_around_its_tables(tmp_path):
    page = tmp_path / "benchmark-pooling.md"
    page.write_text(f"# Title\n\n{runner._START}\nold\n{runner._END}\n\nWhat limits it.\n")
    rows = {t: {"f32": t / 1e3} for t in (1024, 2048)}
    runner.write(tmp_path, {"x": (1, 2)}, {"s": {"x": 1.5}}, {"s": {"f": [0.5]}}, {"peak": "3 MiB"}, rows)
    text = page.read_text()
    assert text.startswith("# Title")
    assert text.endswith("What limits it.\n")
    assert "old" not in text
    assert "| x | 1 | 2 | **1.50** |" in text
    assert "| peak | 3 MiB |" in text
    assert (tmp_path / "benchmark-pooling.png").stat().st_size > 1000


def test_unknown_benchmark_lists_the_known_ones():
    command = [sys.executable, "-m", "eval.benchmark", "nothing"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "pooling" in result.stderr


def test_the_pytorch_peer_computes_the_same(rng):
    torch = pytest.importorskip("torch")
    from eval.benchmark.common import pytorch as peer

    x = rng.normal(size=(3, 20, 8)).astype(np.float32)
    mask = np.ones((3, 20), np.float32)
    mask[1:, 15:] = 0
    left, right = rng.normal(size=(2, 8, 3)).astype(np.float32)
    tx, tm, ta, tb = map(torch.from_numpy, (x, mask, left, right))
    projected = peer.projected_moment(tx, tm, ta, tb), peer.plain_projected_moment(tx, tm, ta, tb)
    forms = peer.attention_covariance, peer.plain_attention_covariance, peer.whole_attention_covariance
    attention = [form(tx, tm, ta[:, :1], tb) for form in forms]
    whole = peer.second_moment(tx, tm)
    one = peer.projected_moments_one_by_one([tx[0], tx[1, :15]], ta, tb)
    for i, (v, m) in enumerate(zip(x, mask)):
        moment = projected_moment(v, left, right, m)
        pairs = [(moment, theirs[i]) for theirs in projected] + [(second_moment(v, m), whole[i])]
        ours = attention_covariance_matrices(v, left[:, :1], right, m)[0]
        pairs += [(ours, theirs[i]) for theirs in attention]
        pairs += [(moment, one[i])] if i < 2 else []
        for mine, theirs in pairs:
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_the_gram_form_of_the_tucker_loss_computes_the_same(rng):
    from covjax.autoencoders import moment_norm, tucker_loss
    from eval.benchmark.autoencoders import gram_loss, training_step

    x = rng.normal(size=(20, 8)).astype(np.float32)
    sides = tuple(rng.normal(size=(2, 8, 3)).astype(np.float32))
    ours = float(tucker_loss(x, *sides))
    assert float(gram_loss(x, *sides, norm=False)) == pytest.approx(ours, rel=1e-4)
    assert float(gram_loss(x, *sides)) == pytest.approx(ours + float(moment_norm(x)), rel=1e-4)
    updated = [training_step(loss, x, sides)()[1] for loss in (tucker_loss, gram_loss)]
    np.testing.assert_allclose(*updated, atol=1e-5)


def test_the_autoencoders_page(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoders, "SHAPE", (64, 12, 3))
    monkeypatch.setattr(autoencoders, "GROWTH", (16, 32))
    assert autoencoders.main(["--seconds", "0", "--tokens", "64", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "benchmark-autoencoders.md").read_text()
    assert "| f32: Gram form ÷ covjax | 15 |  | **" in text
    assert "| bf16: Gram form ÷ covjax | 15 | 40 | **" in text
    assert text.count("| 32 | ") == 1


def test_the_metrics_page(tmp_path):
    pytest.importorskip("sklearn")
    sizes = ["--labels", "7", "--examples", "90", "--rounds", "2"]
    assert metrics.main([*sizes, "--output", str(tmp_path)]) == 0
    text = (tmp_path / "benchmark-metrics.md").read_text()
    assert "7 labels × 90 examples" in text
    assert "| AUROC: scikit-learn loop ÷ covjax | 30 | **" in text


def test_many_sequences_are_written_as_compare_reads_them(tmp_path):
    many.write_data(tmp_path / "data", 40, 500, 3)
    data = read_table(tmp_path / "data" / "table.csv", "regression", group_column="group", needs_sequence=False)
    with np.load(tmp_path / "data" / "tokens.npz") as arrays:
        tokens = [arrays[each] for each in data.ids]
    assert all(each.shape == (500, 3) and each.dtype == np.float16 for each in tokens)
    planted = [np.corrcoef(each.T.astype(float))[0, 1] for each in tokens]
    np.testing.assert_allclose(planted, data.targets[:, 0], atol=0.2)
