"""Tokens, rows, latents and arrays spread over devices and processes: the numbers of one device, for every topology.

A job's processes take seconds to start, so that all tasks of a topology are one job.
"""

import functools
import json

import jax
import numpy as np
import pytest

from covjax import InputError, merge, moments, projected_moment
from covjax.probes import (
    Budget,
    fit_logistic_path,
    fit_logistic_stream,
    fit_ridge_blocks,
    fit_ridge_moments,
    fit_ridge_path,
    row_space,
)
from covjax.sharding import shard_rows, sharded_moments, sharded_projected_moment
from tests.distributed_worker import classification, long_sequence, regression
from tests.processes import launch

ONE, TWO, FOUR = (1, 8), (2, 2), (4, 1)  # processes, and devices of each
TASKS = {
    ONE: ("statistics", "logistic", "split_step", "streamed"),
    TWO: ("statistics", "logistic", "digests", "unshared", "streamed"),
    FOUR: ("statistics", "digests"),
}


def over(topologies):
    return pytest.mark.parametrize("topology", topologies, ids=lambda t: f"{t[0]} processes of {t[1]} devices")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Folder and outputs of the job of a topology."""

    @functools.cache
    def run(topology):
        folder = tmp_path_factory.mktemp("job")
        arguments = {
            "statistics": [str(folder / "statistics.npz")],
            "logistic": [str(folder / "logistic.npz")],
            "split_step": ["6"],
            "streamed": [str(folder / "whole.npz"), str(folder / "whole"), "99"],
        }
        tasks = [word for name in TASKS[topology] for word in (name, *arguments.get(name, []), "+")]
        if "streamed" in TASKS[topology]:  # once more, broken off before its third look, and from there to the end
            resumed = ["streamed", str(folder / "resumed.npz"), str(folder / "broken")]
            tasks += [*resumed, "3", "+", *resumed, "99"]
        return folder, launch(tasks, *topology)

    return run


def _relative(a, b):
    return np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()


@pytest.mark.long
@over(TASKS)
def test_moments_of_one_long_sequence_are_those_of_one_device(job, topology):
    """Each against float64: two float32 roundings differ by both. The first of several processes has no rows at all."""
    spread = np.load(job(topology)[0] / "statistics.npz")
    x, w, basis = long_sequence()
    mean = np.average(np.asarray(x, np.float64), axis=0, weights=w)
    exact = np.asarray(x, np.float64) - mean
    one = moments(x, w)
    # mean/deviation 100: E[xxᵀ] − μμᵀ is 1e-3 off
    for name, value in {"count": w.sum(), "mean": mean, "scatter": exact.T @ (w[:, None] * exact)}.items():
        assert _relative(spread[name], value) < 1e-6
        assert _relative(getattr(one, name), value) < 1e-6
    assert _relative(spread["raw"], np.asarray(projected_moment(x, basis, None, w))) < 1e-6
    centred = exact @ basis
    assert _relative(spread["centred"], centred.T @ (w[:, None] * centred) / w.sum()) < 2e-6


@pytest.mark.long
@over(TASKS)
def test_ridge_of_rows_on_many_hosts_is_that_of_one(job, topology):
    spread = np.load(job(topology)[0] / "statistics.npz")
    x, y = regression()
    space = row_space(x)
    for i, probe in enumerate(fit_ridge_path(space, space.coordinates(x), y, [1e-3, 1.0])):
        assert _relative(spread[f"weights{i}"], probe.weights) < 1e-5
        assert _relative(spread[f"bias{i}"], probe.bias) < 1e-5


@over([ONE, TWO])
def test_scores_of_logistic_probes_are_those_of_one_fit(job, topology):
    spread = np.load(job(topology)[0] / "logistic.npz")
    x, labels = classification()
    space = row_space(x)
    for name, targets in (("labels", labels), ("classes", np.eye(3, dtype=bool)[labels @ (1, 1)])):
        path = fit_logistic_path(
            space, space.coordinates(x), targets, [1e-3, 1e-1], name == "classes", class_weights="balanced"
        )
        for i, probe in enumerate(path.probes):
            expected = probe.scores(x)
            np.testing.assert_allclose(spread[f"{name}{i}"], expected, atol=2e-3 * np.abs(expected).max())
            assert spread[f"{name}{i} gradient"] <= 1e-4


@pytest.fixture(scope="module")
def streamed():
    """Scores and validation of what `distributed_worker.streamed` fits, in one process without a mesh."""
    x, labels = classification()

    def stream(rows, size):
        return lambda: ((x[rows][i : i + size], labels[rows][i : i + size]) for i in range(0, len(x[rows]), size))

    budget = Budget(steps=25, learning_rate=5e-2, evaluate_every=5, shuffle=3)
    first, rest = stream(slice(0, 150), 16), stream(slice(150, None), 100)
    path = fit_logistic_stream(first, rest, (1e-2, 1.0), False, budget, class_weights="balanced")
    return np.array([probe.scores(x) for probe in path.probes]), path.validation


@over([ONE, TWO])
def test_rows_of_a_streamed_step_give_the_same_probes_also_after_a_break(job, streamed, topology):
    folder, outputs = job(topology)
    assert "broken off at 00000015\n" in outputs[0]
    with np.load(folder / "whole.npz") as one, np.load(folder / "resumed.npz") as other:
        np.testing.assert_array_equal(other["scores"], one["scores"])
        np.testing.assert_allclose(one["scores"], streamed[0], atol=1e-4 * np.abs(streamed[0]).max())
        np.testing.assert_allclose(one["validation"], streamed[1], rtol=1e-4)


def test_meshes_that_the_processes_do_not_share_out_are_refused_in_all(job):
    for output in job(TWO)[1]:
        assert "mesh: it has no device of some processes of the job" in output
        assert "mesh: the processes must share out the axis 'model' evenly" in output


@over([TWO, FOUR])
def test_an_array_spread_over_processes_has_the_digest_and_content_of_the_whole(job, topology):
    for output in job(topology)[1]:
        lines = [line.split("digests ")[1] for line in output.splitlines() if "digests " in line]
        assert lines == ["True True False", "True True False", "True True True"]  # columns alone go through devices


def test_split_latents_take_the_same_steps_and_move_candidates_only(job):
    """48 tokens, 24 features, 512 latents, k 5 and 8 over 2 × 4 devices: all pre-activations of 24 tokens are 49 kB."""
    (output,) = job(ONE)[1]
    assert "dead True equal True" in output
    assert "ties True" in output
    (line,) = [line for line in output.splitlines() if line.startswith("collectives")]
    sizes = json.loads(line.removeprefix("collectives "))
    assert sizes
    gathered = [size for kind, size in sizes if kind == "all-gather"]
    assert gathered
    assert max(gathered) <= 24 * 4 * 8 * 4  # a device's tokens × devices × their candidates
    assert "all-to-all" not in {kind for kind, _ in sizes}
    # Both gradients of 128 rows.
    assert max(size for kind, size in sizes if kind == "all-reduce") <= 2 * 128 * 24 * 4 + 2000


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
