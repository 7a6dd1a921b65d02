"""The streamed logistic path ends where L-BFGS and scikit-learn do, stops early, and resumes to the bit."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from covjax.errors import InputError
from covjax.probes import Budget, fit_logistic_stream
from covjax.probes.logistic import probabilities

PENALTIES = (1e-2, 1.0)


def problem(rng, n=210, p=8, k=3):
    x = (rng.normal(size=(n, p)) * np.geomspace(0.05, 3, p) + 5).astype(np.float32)
    y = (x - 5) / np.geomspace(0.05, 3, p) @ rng.normal(size=(p, k)) + rng.normal(size=(n, k))
    return x, y


def over(x, truth, size=64, fail_at=None):
    passed = [0]

    def stream():
        for i in range(0, len(x), size):
            passed[0] += 1
            if passed[0] == fail_at:
                raise KeyboardInterrupt
            yield x[i : i + size], truth[i : i + size]

    return stream


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("class_weights", [None, "balanced"])
def test_it_ends_at_the_optimum_of_scikit_learn(rng, exclusive, class_weights):
    x, y = problem(rng)
    classes = (y + np.array([0.0, 1.0, -0.5])).argmax(1)
    truth = np.eye(3, dtype=bool)[classes] if exclusive else y > 1
    stream = over(x, truth)
    budget = Budget(steps=600, learning_rate=5e-2, evaluate_every=600)
    path = fit_logistic_stream(stream, stream, PENALTIES, exclusive, budget, class_weights=class_weights)
    assert path.best_step.tolist() == [600, 600]
    scaled = (x - x.mean(0, dtype=np.float64)) / np.sqrt(x.var(0, dtype=np.float64).sum())
    for penalty, probe in zip(PENALTIES, path.probes):
        ours = probabilities(probe.scores(x), exclusive)
        options = {"C": 1 / (len(x) * penalty), "tol": 1e-8, "max_iter": 5000, "class_weight": class_weights}
        for j in range(1 if exclusive else 3):
            peer = LogisticRegression(**options).fit(scaled, classes if exclusive else truth[:, j])
            theirs = peer.predict_proba(scaled)
            np.testing.assert_allclose(
                ours if exclusive else ours[:, j], theirs if exclusive else theirs[:, 1], atol=5e-3
            )


def test_each_penalty_keeps_the_look_that_was_best_on_validation(rng):
    x, y = problem(rng, n=60, p=40)
    truth = (y > 0) ^ (rng.random(y.shape) < 0.3)  # noise to fit
    budget = Budget(steps=400, learning_rate=5e-2, evaluate_every=20, patience=3)
    path = fit_logistic_stream(over(x[:30], truth[:30], 10), over(x[30:], truth[30:]), (1e-6, 1e-2), False, budget)
    np.testing.assert_array_equal(path.best_step, 20 * (path.validation.argmax(0) + 1))
    assert path.best_step[0] < 400
    for j, probe in enumerate(path.probes):
        p = probabilities(probe.scores(x[30:]), False)
        loss = -np.where(truth[30:], np.log(p), np.log1p(-p)).sum(1).mean()
        np.testing.assert_allclose(-loss, path.validation[:, j].max(), rtol=1e-4)


def test_a_killed_fit_resumes_to_the_same_bits(rng, tmp_path):
    x, y = problem(rng)
    truth, budget = y > 0, Budget(steps=14, evaluate_every=3, shuffle=2)

    def fit(folder, fail_at=None, penalties=PENALTIES):
        stream = over(x[:160], truth[:160], 40, fail_at)
        return fit_logistic_stream(stream, over(x[160:], truth[160:]), penalties, False, budget, checkpoint=folder)

    whole = fit(None)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", fail_at=15)
    assert [path.name for path in (tmp_path / "a").iterdir()] in (["00000006"], ["00000009"])
    resumed = fit(tmp_path / "a")
    for a, b in zip(whole.probes, resumed.probes):
        np.testing.assert_array_equal(a.weights, b.weights)
        np.testing.assert_array_equal(a.bias, b.bias)
    np.testing.assert_array_equal(whole.validation, resumed.validation)
    with pytest.raises(InputError, match="strengths: "):
        fit(tmp_path / "a", penalties=(1e-2, 2.0))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x, t: (np.where(np.arange(210)[:, None] == 70, np.nan, x), t), "first sample 70"),
        (lambda x, t: (np.ones_like(x), t), "all 210 training samples are equal"),
        (lambda x, t: (x, np.ones_like(t)), "column 0 has one class only in the 210 training rows"),
        (lambda x, t: (x[:0], t), "stream: it gave no batch"),
        (lambda x, t: (x, t[:200]), r"features \(18, 8\) and targets \(8, 3\) at sample 192 do not fit"),
    ],
)
def test_bad_streams_are_named(rng, change, match):
    x, y = problem(rng)
    stream = over(*change(x, y > 0))
    with pytest.raises(InputError, match=match):
        fit_logistic_stream(stream, stream, PENALTIES, False)


@pytest.mark.usefixtures("unchecked")  # three devices on a machine of one are no `Mesh`
def test_what_cannot_be_split_is_named(rng):
    x, y = problem(rng)
    stream, mesh = over(x, y > 0), jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    with pytest.raises(InputError, match="axis: 'data' is not one of the mesh's: rows"):
        fit_logistic_stream(stream, stream, PENALTIES, False, mesh=mesh, axis="data")
    three = SimpleNamespace(axis_names=("rows",), shape={"rows": 3}, devices=np.array(jax.devices() * 3))
    with pytest.raises(InputError, match="stream: batches of 64 samples cannot be split over 3 devices a process"):
        fit_logistic_stream(stream, stream, PENALTIES, False, mesh=three, axis="rows")
    with pytest.raises(InputError, match="do not fit"):
        fit_logistic_stream(over(x, y[:, 0] > 0), stream, PENALTIES, False)
