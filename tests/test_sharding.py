"""Tokens and rows spread over devices and processes: the numbers of one device, whoever has how many rows."""

import jax
import numpy as np
import pytest

from covjax import InputError, merge, moments, projected_moment
from covjax.probes import fit_ridge_blocks, fit_ridge_moments, fit_ridge_path, row_space
from covjax.sharding import shard_rows, sharded_moments, sharded_projected_moment
from tests.distributed_worker import long_sequence, regression
from tests.processes import launch


def _relative(a, b):
    return np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()


@pytest.fixture(scope="module", params=[(1, 8), (2, 2), (4, 1)], ids=lambda p: f"{p[0]} processes of {p[1]} devices")
def spread(request, tmp_path_factory):
    """Statistics of uneven rows: the first of several processes has none at all."""
    path = tmp_path_factory.mktemp("statistics") / "out.npz"
    launch(["statistics", str(path)], *request.param)
    return np.load(path)


def test_moments_of_one_long_sequence_are_those_of_one_device(spread):
    x, w, basis = long_sequence()
    one = moments(x, w)
    for name in ("count", "mean", "scatter"):
        assert _relative(spread[name], np.asarray(getattr(one, name))) < 1e-6
    exact = np.asarray(x, np.float64)
    exact -= np.average(exact, axis=0, weights=w)
    assert (
        _relative(spread["scatter"], exact.T @ (w[:, None] * exact)) < 1e-6
    )  # mean/deviation 100: E[xxᵀ]−μμᵀ has 1e-3
    assert _relative(spread["raw"], np.asarray(projected_moment(x, basis, None, w))) < 1e-6
    centred = exact @ basis
    assert _relative(spread["centred"], centred.T @ (w[:, None] * centred) / w.sum()) < 2e-6


def test_ridge_of_rows_on_many_hosts_is_that_of_one(spread):
    x, y = regression()
    space = row_space(x)
    for i, probe in enumerate(fit_ridge_path(space, space.coordinates(x), y, [1e-3, 1.0])):
        assert _relative(spread[f"weights{i}"], probe.weights) < 1e-5
        assert _relative(spread[f"bias{i}"], probe.bias) < 1e-5


def test_moments_of_rows_in_parts_serve_ridge(rng):
    x, y = regression()
    rows = np.concatenate([x, y], axis=1)
    joint = merge(moments(rows[:150]), moments(rows[150:]))
    exact = fit_ridge_blocks(lambda i, j: x[i:j], y, [1e-2], route="primal")
    np.testing.assert_allclose(fit_ridge_moments(joint, 3, [1e-2])[0].weights, exact[0].weights, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="outputs: 15 is not in 1 … 14"):
        fit_ridge_moments(joint, 15, [1e-2])
    with pytest.raises(InputError, match="penalties: 0.0 must be > 0"):
        fit_ridge_moments(joint, 3, [0])
    with pytest.raises(InputError, match="all 9 training samples are equal"):
        fit_ridge_moments(moments(np.ones((9, 4), np.float32)), 1, [1.0])


def test_what_does_not_fit_the_mesh_is_named(rng):
    mesh = jax.make_mesh((1,), ("rows",))
    x = rng.normal(size=(5, 3)).astype(np.float32)
    with pytest.raises(InputError, match="axis: 'columns' is not one of the mesh's: rows"):
        shard_rows([x], mesh=mesh, axis="columns")
    with pytest.raises(InputError, match=r"need one number of rows, got \[4, 5\]"):
        shard_rows([x, x[:4]], mesh=mesh, axis="rows")
    with pytest.raises(InputError, match="weights: must be 5 finite numbers >= 0"):
        shard_rows([x], -np.ones(5), mesh=mesh, axis="rows")
    with pytest.raises(InputError, match="no row with a weight above 0"):
        shard_rows([x], np.zeros(5), mesh=mesh, axis="rows")
    with pytest.raises(InputError, match="cannot be divided over the axis 'columns'"):
        sharded_moments(x, np.ones(5, np.float32), mesh=mesh, axis="columns")
    (tokens,), w = shard_rows([x], mesh=mesh, axis="rows")
    with pytest.raises(InputError, match="center must be"):
        sharded_projected_moment(tokens, x[:3], None, w, mesh=mesh, axis="rows", center="data")
