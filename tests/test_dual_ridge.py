"""Ridge on features that pass by in blocks: every route equals the closed form on the whole matrix."""

import numpy as np
import pytest

from covjax.errors import InputError
from covjax.probes import fit_ridge_path, ridge_blocks, row_space
from covjax.probes.ridge_blocks import ROUTES, block_gram, cholesky_path, choose_route, default_block, fit_ridge_blocks
from eval.benchmark import ridge

PENALTIES = (1e-5, 1e-2, 1.0)


def problem(rng, n, p):
    x = (rng.normal(size=(n, p)) * np.geomspace(0.1, 3, p) + 4).astype(np.float32)
    return x, (x[:, :4] @ rng.normal(size=(4, 3)) + rng.normal(size=(n, 3)))


def blocks(x, calls=None):
    def features(start, stop):
        if calls is not None:
            calls.append((start, stop))
        return x[start:stop]

    return features


@pytest.mark.parametrize("route", [*ROUTES, "auto"])
@pytest.mark.parametrize(("n", "p"), [(90, 20), (50, 120)])
def test_every_route_equals_ridge_on_the_whole_matrix(rng, route, n, p):
    x, y = problem(rng, n, p)
    space = row_space(x)
    wanted = fit_ridge_path(space, space.coordinates(x), y, PENALTIES)
    found = fit_ridge_blocks(blocks(x), y, PENALTIES, route=route, block_size=16)
    new = problem(rng, 30, p)[0]
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a.scores(new), b.scores(new), atol=1e-3 * np.abs(b.scores(new)).max())
        np.testing.assert_allclose(a.scores(x).mean(0), y.mean(0), atol=1e-4)


def test_the_gram_is_the_same_for_every_plan_and_makes_each_block_as_often_as_the_panel_says(rng):
    x, _ = problem(rng, 50, 12)
    shifted = x.astype(np.float64) - x[:8].mean(0)
    whole, calls = [], []
    for panel in (1, 3, 7):
        calls.clear()
        whole.append(block_gram(blocks(x, calls), 50, 8, panel_gib=panel * 8 * 12 * 4 / 2**30))
        np.testing.assert_allclose(whole[-1], shifted @ shifted.T, rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(whole[-1], whole[0])
        assert len(calls) == 1 + sum(range(7, 0, -panel))


def exact(kernel, y, penalty):
    n = len(y)
    h = np.eye(n) - 1 / n
    centred = h @ kernel.astype(np.float64) @ h
    return np.linalg.solve(centred + penalty * np.trace(centred) * np.eye(n), y - y.mean(0))


@pytest.mark.parametrize(
    ("penalty", "types"),
    [(100.0, []), (1.0, []), (0.99, [np.float32]), (1e-6, [np.float32]), (1e-8, [np.float32])],
)
def test_cholesky_path_is_the_float64_solution(rng, monkeypatch, penalty, types):
    """float32 alone loses all digits at 1e-6; from 1 on no factor is needed."""
    f = rng.normal(size=(60, 60)) * np.geomspace(1, 1e-4, 60)
    kernel, y = (f @ f.T).astype(np.float32), rng.normal(size=(60, 2))
    used = record_factors(monkeypatch)
    (alpha,), wanted = cholesky_path(kernel, y, [penalty]), exact(kernel, y, penalty)
    np.testing.assert_allclose(alpha, wanted, atol=1e-6 * np.abs(wanted).max())
    np.testing.assert_allclose(alpha.sum(0), 0, atol=1e-12 * np.abs(alpha).max())
    assert used == types


def test_cholesky_path_falls_back_to_float64_where_float32_fails(rng, monkeypatch):
    f = rng.integers(-3, 4, (60, 20)).astype(np.float32)  # of rank 20, exactly: what stands on the ridge alone is lost
    kernel, y = f @ f.T, rng.normal(size=(60, 2))
    used = record_factors(monkeypatch)
    (alpha,), wanted = cholesky_path(kernel, y, [4e-9]), exact(kernel, y, 4e-9)
    np.testing.assert_allclose(alpha, wanted, atol=1e-5 * np.abs(wanted).max())
    assert used == [np.float32, np.float64]


def record_factors(monkeypatch):
    used = []
    monkeypatch.setattr(ridge_blocks, "_factor", lambda *a, f=ridge_blocks._factor: used.append(a[-1]) or f(*a))
    return used


def test_routes_are_chosen_by_size():
    assert choose_route(1000, 500) == "primal"
    assert choose_route(1000, 501) == "eigen"
    assert choose_route(4097, 51_360) == "cholesky"
    assert [default_block(p) for p in (10, 51_360, 1_180_416, 10**9)] == [512, 512, 56, 1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"features": lambda i, j: np.where(np.arange(i, j)[:, None] == 9, np.nan, 1.0) * np.ones(4)}, "sample 9"),
        ({"features": lambda i, j: np.ones((j - i, 4))}, "all 20 training samples are equal"),
        ({"features": lambda i, j: np.ones((1, 4))}, r"shape \(1, 4\), expected \(20, p\)"),
        ({"route": "lanczos"}, "route: 'lanczos' is not one of auto, primal"),
        ({"penalties": (0.0,)}, "penalties: 0.0 must be > 0"),
        ({"targets": np.full((20, 1), np.nan)}, "targets: "),
    ],
)
@pytest.mark.parametrize("route", ["primal", "cholesky"])
def test_bad_input_is_named(rng, change, match, route):
    x, y = problem(rng, 20, 4)
    arguments = {"features": blocks(x), "targets": y, "penalties": (1.0,), "route": route} | change
    with pytest.raises(InputError, match=match):
        fit_ridge_blocks(**arguments)


@pytest.mark.slow
def test_the_benchmark_reports_every_stage(tmp_path, capsys):
    assert ridge.main(["--sequences", "40", "--features", "6", "--block", "16", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "benchmark-ridge.md").read_text()
    assert "40 sequences × 64 tokens × 6 features: 21 features of Σ" in text
    for stage in (
        "kernel",
        "path of 9 penalties",
        "weights on the features",
        "total",
    ):
        assert f"| {stage} |" in text
    assert "Peak memory" in text
