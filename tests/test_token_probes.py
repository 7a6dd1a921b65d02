"""End-to-end probes learn what a mean cannot see, and a killed fit ends with the same bits."""

import jax
import numpy as np
import pytest

from covjax import get_pooler
from covjax.errors import InputError
from covjax.probes import BilinearReadout, Budget, fit_token_probe

D, N = 6, 120
SHORT = Budget(steps=12, learning_rate=3e-3, evaluate_every=3, shuffle=3)


def correlated(rng, n=N):
    """Sequences whose first two features agree or disagree in sign: equal means, different co-occurrence."""
    labels = rng.integers(0, 2, n)
    sequences = []
    for label, length in zip(labels, rng.integers(8, 20, n)):
        x = rng.normal(size=(length, D)).astype(np.float32)
        x[:, 1] = x[:, 0] * (1 if label else -1) + 0.3 * x[:, 1]
        sequences.append(x)
    return sequences, labels


def walk_over(sequences, size=16, fail_at=None):
    count = [0]

    def walk(wanted=None):
        for i in range(0, len(sequences), size):
            rows = np.arange(i, min(i + size, len(sequences)))
            tokens = np.full((size, 20, D), np.nan, np.float32)
            weights = np.zeros((size, 20), np.float32)
            for k, row in enumerate(rows):
                tokens[k, : len(sequences[row])] = sequences[row]
                weights[k, : len(sequences[row])] = 1
            count[0] += 1
            if fail_at is not None and count[0] == fail_at:
                raise KeyboardInterrupt
            yield rows, tokens, weights

    return walk


def bilinear(**options):
    return BilinearReadout(D, **({"rank": 4, "units": 8} | options))


@pytest.mark.parametrize(
    "pool",
    [
        lambda: get_pooler("projected", features=D, rank=4),
        lambda: get_pooler("attention_covariance", features=D, rank=4),
        lambda: bilinear(tied=False, center=None),
    ],
)
def test_second_order_pools_learn_co_occurrence(rng, pool):
    sequences, labels = correlated(rng)
    truth = np.eye(2, dtype=bool)[labels]
    budget = Budget(steps=90, learning_rate=2e-2, evaluate_every=30)
    rows = np.arange(N)
    probe = fit_token_probe(
        pool(), walk_over(sequences), truth, rows[:60], rows[60:80], "multiclass", (1e-3, 1e-1), budget
    )
    scores = probe.scores(walk_over(sequences)())
    assert scores.shape == (N, 2)
    assert (scores.argmax(1) == labels)[80:].mean() > 0.9
    assert probe.validation.shape == (3, 2)
    assert set(probe.best_step) <= {30, 60, 90}


def test_regression_is_in_the_targets_own_units(rng):
    sequences, _ = correlated(rng)
    y = np.array([[x[:, 2].mean() * 50 + 1000] for x in sequences])
    pool = get_pooler("light_attention", features=D, kernel_size=3)
    budget = Budget(steps=90, learning_rate=2e-2, evaluate_every=30)
    rows = np.arange(N)
    probe = fit_token_probe(pool, walk_over(sequences), y, rows[:80], rows[80:100], "regression", (1e-3,), budget)
    error = (probe.scores(walk_over(sequences)()) - y)[100:]
    assert (error**2).mean() < 0.5 * y[100:].var()


def leaves(probe):
    return [probe.weights, probe.bias, probe.validation, probe.best_step, *jax.tree.leaves(jax.device_get(probe.pool))]


def test_a_killed_fit_resumes_to_the_same_bits(rng, tmp_path):
    sequences, labels = correlated(rng, 80)
    truth = np.stack([labels, 1 - labels], 1).astype(bool)

    def fit(folder, fail=None, decays=(1e-3, 1e-1)):
        rows = np.arange(80)
        walk = walk_over(sequences, fail_at=fail)
        return fit_token_probe(
            bilinear(), walk, truth, rows[:50], rows[50:70], "multilabel", decays, SHORT, checkpoint=folder
        )

    whole = fit(None)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", fail=35)
    saved = [int(path.name) for path in (tmp_path / "a").iterdir()]
    assert len(saved) == 1
    assert 0 < saved[0] < SHORT.steps
    resumed = fit(tmp_path / "a")
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match=r"strengths: \[0.001, 0.1\] -> \[0.001, 1.0\]"):
        fit(tmp_path / "a", decays=(1e-3, 1.0))


def test_the_best_look_is_kept_and_patience_ends_the_fit(rng):
    sequences, labels = correlated(rng, 60)
    truth = np.eye(2, dtype=bool)[labels]
    looks = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    rows = np.arange(60)
    budget = Budget(steps=40, evaluate_every=4, patience=2)
    arguments = walk_over(sequences), truth, rows[:40], rows[40:], "multiclass", (1e-3,), budget
    probe = fit_token_probe(bilinear(), *arguments, metric=lambda truth, scores: next(looks))
    assert probe.validation[:, 0].tolist() == [0.1, 0.9, 0.5, 0.4]
    assert probe.best_step.tolist() == [8]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"targets": np.eye(2, dtype=bool)[np.zeros(40, int)]}, "column 0 has one class only in the 20 training rows"),
        ({"targets": np.ones((40, 1)), "task": "regression"}, "column 0 is constant"),
        ({"task": "ranking"}, "task: 'ranking' is not one of"),
        ({"validation_rows": np.arange(15, 30)}, "5 rows are in validation_rows too, first 15"),
        ({"train_rows": np.arange(60)}, "60 row numbers must lie in 0 to 39"),
        ({"class_weights": "heavy"}, "class_weights: 'heavy' is not"),
    ],
)
def test_bad_input_is_named(rng, change, match):
    sequences, labels = correlated(rng, 40)
    arguments = {
        "targets": np.eye(2, dtype=bool)[labels],
        "train_rows": np.arange(20),
        "validation_rows": np.arange(20, 40),
        "task": "multiclass",
    } | change
    with pytest.raises(InputError, match=match):
        fit_token_probe(bilinear(), walk_over(sequences), budget=SHORT, **arguments)


def test_nan_tokens_and_missing_rows_are_named(rng):
    sequences, labels = correlated(rng, 40)
    arguments = np.eye(2, dtype=bool)[labels], np.arange(20), np.arange(20, 40), "multiclass", (1e-3,), SHORT
    with pytest.raises(InputError, match="of 20 training rows 4 never came, first 16"):
        fit_token_probe(bilinear(), walk_over(sequences[:16]), *arguments)
    sequences[7][3] = np.nan
    with pytest.raises(InputError, match="NaN or inf in the pooled tokens of 1 training rows, first row 7"):
        fit_token_probe(bilinear(), walk_over(sequences), *arguments)


@pytest.mark.parametrize(
    ("train", "validation", "decays", "message"),
    [
        (np.arange(N) < 60, np.arange(60, 80), (1.0,), "train_rows: bool .* np.flatnonzero"),
        (np.arange(60.0), np.arange(60, 80), (1.0,), "train_rows: float64 .* must be row numbers"),
        ([0, 1, 1], np.arange(60, 80), (1.0,), "train_rows: 1 row numbers occur more than once"),
        (np.arange(60), np.arange(60, 80), (), "weight_decays: "),
        (np.arange(60), np.arange(60, 80), (-1.0,), "weight_decays: "),
        (np.arange(60), np.arange(60, 80), (np.nan,), "weight_decays: "),
    ],
)
def test_bad_rows_and_decays_are_refused(rng, train, validation, decays, message):
    sequences, labels = correlated(rng)
    with pytest.raises(InputError, match=message):
        fit_token_probe(bilinear(), walk_over(sequences), labels, train, validation, "multilabel", decays, SHORT)


def test_rows_that_never_come_and_tokens_that_are_nan_are_named(rng):
    sequences, labels = correlated(rng, 40)
    rows = np.arange(40)
    short = walk_over(sequences[:32])
    with pytest.raises(InputError, match=r"validation row 32 never came \(8 in all\)"):
        fit_token_probe(bilinear(), short, labels, rows[:20], rows[20:], "multilabel", (1.0,), SHORT)
    probe = fit_token_probe(bilinear(), walk_over(sequences), labels, rows[:20], rows[20:], "multilabel", (1.0,), SHORT)
    sequences[3][0, 0] = np.nan
    with pytest.raises(InputError, match="batches: .* NaN or inf, first at row 3, .* of the pooled tokens"):
        probe.scores(walk_over(sequences)())
    with pytest.raises(InputError, match="batches: empty"):
        probe.scores([])
