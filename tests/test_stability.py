"""Stability measures on constructed cases: the same up to order, scale and rotation; unrelated; in between."""

from itertools import permutations

import numpy as np
import pytest

from covjax import InputError
from covjax.autoencoders.stability import (
    matched_cosines,
    principal_angles,
    procrustes_distance,
    random_cosines,
    share_above,
)


def test_permuted_and_scaled_dictionaries_match_fully(rng):
    rows = rng.normal(size=(30, 8))
    other = rows[rng.permutation(30)] * rng.choice([2, 3], size=(30, 1))
    np.testing.assert_allclose(matched_cosines(rows, other), 1)
    assert share_above(matched_cosines(rows, other), 0.9) == 1


def test_opposite_directions_are_other_features():
    np.testing.assert_allclose(matched_cosines(np.eye(2), -np.eye(2)), 0)
    np.testing.assert_allclose(matched_cosines(np.eye(1, 2), -np.eye(1, 2)), -1)


def test_matching_is_the_best_of_all_one_to_one(rng):
    left, right = rng.normal(size=(2, 5, 3))
    left[0] = left[1]  # both are nearest to the same row, which serves one of them
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (left, right)]
    cosines = unit[0] @ unit[1].T
    best = max(sum(cosines[i, j] for i, j in enumerate(order)) for order in permutations(range(5)))
    assert matched_cosines(left, right).sum() == pytest.approx(best)


def test_random_dictionaries_are_at_the_baseline(rng):
    baseline = random_cosines(100, 20)
    other = matched_cosines(rng.normal(size=(100, 20)), rng.normal(size=(100, 20)))
    assert other.mean() == pytest.approx(baseline.mean(), abs=0.03)
    assert 0.3 < baseline.mean() < 0.7
    assert share_above(baseline, 0.9) == 0
    half = rng.normal(size=(100, 20))
    mixed = matched_cosines(half, np.concatenate([half[:50], rng.normal(size=(50, 20))]))
    assert share_above(mixed, 0.99) == 0.5
    np.testing.assert_array_equal(baseline, random_cosines(100, 20))
    assert matched_cosines(np.eye(3)[:, :2], np.eye(3)[:, :2])[2] == 0  # a row of zeros


def test_principal_angles_by_hand(rng):
    angle = 1e-5  # its cosine is 1 in float32 and all but 1 in float64
    turned = np.array([[np.cos(angle), 0], [0, 1], [np.sin(angle), 0], [0, 0]])
    np.testing.assert_allclose(principal_angles(np.eye(4)[:, :2], turned), [0, angle], atol=1e-10)
    basis = rng.normal(size=(9, 3))
    np.testing.assert_allclose(principal_angles(basis, basis @ rng.normal(size=(3, 3))), 0, atol=1e-7)
    np.testing.assert_allclose(principal_angles(np.eye(4)[:, :2], np.eye(4)[:, 2:]), np.pi / 2)


def test_procrustes_distance_forgets_rotation_and_shift(rng):
    x = rng.normal(size=(500, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert procrustes_distance(x, x @ rotation + 5) == pytest.approx(0, abs=1e-7)
    noise = rng.normal(size=x.shape) * 0.1
    assert procrustes_distance(x, (x + noise) @ rotation) == pytest.approx(0.1, rel=0.1)
    assert procrustes_distance(x, rng.normal(size=x.shape)) > 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("measure", [matched_cosines, principal_angles, procrustes_distance])
def test_bad_input_is_named(measure):
    with pytest.raises(InputError, match=r"one shape, got \(3, 2\) and \(2, 3\)"):
        measure(np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(InputError, match="NaN or inf"):
        measure(np.ones((3, 2)), np.full((3, 2), np.nan))
    with pytest.raises(InputError, match="left must vary"):
        procrustes_distance(np.ones((3, 2)), np.ones((3, 2)))
