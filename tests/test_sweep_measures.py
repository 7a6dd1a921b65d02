"""What a sweep measures, against float64: covariances, absorption, sparse probes, nearest latents."""

import numpy as np
import pytest
from scipy.optimize import minimize

from covjax import InputError
from covjax.activations.windows import join
from covjax.autoencoders import absorption_fraction, covariance_fvu, make_autoencoder
from covjax.autoencoders.stability import max_cosines
from covjax.metrics import auroc
from covjax.probes import fit_sparse_probe
from covjax.sweeps import measure


def test_the_covariances_error_is_the_sum_over_sequences(rng):
    pairs = [(x, x + 0.3 * rng.normal(size=x.shape)) for x in (rng.normal(size=(n, 3)) + 5 for n in (4, 9, 1))]
    errors, sizes = 0.0, 0.0
    for x, y in pairs:
        first, second = ((a - a.mean(0)).T @ (a - a.mean(0)) / len(a) for a in (x, y))
        errors += np.sum((second - first) ** 2)
        sizes += np.sum(first**2)
    assert covariance_fvu(pairs) == pytest.approx(errors / sizes, rel=1e-12)
    assert covariance_fvu([(x, x + 7) for x, _ in pairs]) == pytest.approx(0, abs=1e-20)
    assert covariance_fvu([(x, np.ones_like(x)) for x, _ in pairs]) == pytest.approx(1)
    assert covariance_fvu([(x.astype(np.float32), y) for x, y in pairs]) == pytest.approx(errors / sizes, rel=1e-5)
    for bad, message in (
        ([(np.ones((2, 3)), np.ones((3, 3)))], r"pair 0 has the shapes \(2, 3\) and \(3, 3\)"),
        ([(np.full((2, 3), np.nan), np.ones((2, 3)))], "NaN or inf in pair 0"),
        ([(np.ones((2, 3)), np.ones((2, 3)))], "no sequence whose tokens vary"),
        ([], "no sequence whose tokens vary"),
    ):
        with pytest.raises(InputError, match=message):
            covariance_fvu(bad)


def test_absorption_by_hand():
    decoder = np.array([[1.0, 0], [0.6, 0.8], [0, 1.0], [-1.0, 0], [0, 0]])
    latents = np.array([[2.0, 0, 5, 1, 9], [0, 5, 0, 0, 0], [1, 5, 0, 0, 0], [0, 0, 3, 0, 0]])
    share = absorption_fraction(latents, decoder, np.array([3.0, 0]), np.array([0]))
    np.testing.assert_allclose(share, [0, 1, 3 / 4, 0])
    none = absorption_fraction(latents, decoder, np.array([3.0, 0]), np.array([0]), least_cosine=0.7)
    np.testing.assert_allclose(none, 0)


def test_absorption_is_its_formula_and_checks_its_arguments(rng):
    z, w, p = np.maximum(rng.normal(size=(20, 12)), 0), rng.normal(size=(12, 5)), rng.normal(size=5)
    main = np.array([3, 7])
    unit = p / np.linalg.norm(p)
    expected = []
    for row in z:
        a = sum(max(row[i] * (w[i] @ unit), 0) for i in main)
        b = sum(
            max(row[i] * (w[i] @ unit), 0)
            for i in range(12)
            if i not in main and w[i] @ unit / np.linalg.norm(w[i]) >= 0.2
        )
        expected.append(b / (a + b) if a + b else 0)
    np.testing.assert_allclose(absorption_fraction(z, w, p, main, 0.2), expected, rtol=1e-12)
    for bad, message in (
        ((z, w[1:], p, main), "do not fit"),
        ((z, w, 0 * p, main), "all zeros"),
        ((z, w, np.full(5, np.inf), main), "must be finite"),
        ((z, w, p, np.array([12])), "are not numbers of 12 latents"),
        ((z, w, p, np.array([0.5])), "are not numbers of 12 latents"),
    ):
        with pytest.raises(InputError, match=message):
            absorption_fraction(*bad)


def test_a_sparse_probe_is_the_logistic_optimum_on_the_columns_that_differ_most(rng):
    n, penalty = 300, 1e-2
    y = rng.uniform(size=n) < 0.3
    x = rng.normal(size=(n, 8)) * [1, 1, 5, 1, 1, 1, 1, 1] + 3
    x[:, 4] += 2 * y
    x[:, 1] -= 1.0 * y
    found = fit_sparse_probe(x.astype(np.float32), y, 2, penalty)
    gaps = np.abs(x[y].mean(0) - x[~y].mean(0))
    np.testing.assert_array_equal(found.latents, np.argsort(-gaps)[:2])
    assert found.latents[0] == 4
    part = x[:, found.latents]
    scaled = (part - part.mean(0)) / np.sqrt(np.sum((part - part.mean(0)) ** 2) / n)

    def loss(w):
        margin = np.where(y, 1, -1) * (scaled @ w[:2] + w[2])
        return np.mean(np.logaddexp(0, -margin)) + penalty / 2 * np.sum(w[:2] ** 2)

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(found.scores(x), scaled @ best[:2] + best[2], atol=2e-3)
    one = fit_sparse_probe(x, y, 1)
    assert auroc(y[:, None], one.scores(x)[:, None])[0] == pytest.approx(auroc(y[:, None], x[:, 4:5])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k"),
        ({"k": 4}, "k: 4 of 3 columns"),
        ({"target": np.zeros(6)}, "all 6 are False; both classes are needed"),
        ({"target": np.arange(6)}, "expected 6 booleans or 0 and 1"),
        ({"features": np.ones((6, 3))}, "no column has another mean"),
        ({"features": np.full((6, 3), np.nan)}, "features"),
    ],
)
def test_what_a_sparse_probe_cannot_be_fitted_to_is_named(change, message):
    given = {"features": np.arange(18.0).reshape(6, 3), "target": np.arange(6) % 2, "k": 1} | change
    with pytest.raises(InputError, match=message):
        fit_sparse_probe(**given)


def test_max_cosines_take_the_nearest_row_of_another_number_of_rows(rng):
    left, right = rng.normal(size=(7, 4)), rng.normal(size=(11, 4))
    right[5] = 3 * left[2]
    left[6] = 0
    expected = [max(row @ r / np.linalg.norm(row) / np.linalg.norm(r) for r in right) for row in left[:6]]
    cosines = max_cosines(left, right)
    np.testing.assert_allclose(cosines[:6], expected, rtol=1e-12)
    assert cosines[2] == pytest.approx(1)
    assert cosines[6] == 0
    with pytest.raises(InputError, match="matrices of one width"):
        max_cosines(left, right[:, 1:])


def test_labels_that_a_latent_carries_are_found(rng):
    """Sequences with the label have a direction that the others lack; a dictionary with that direction says so."""
    arrays, labels = [], np.arange(120)[:, None] % 3 == 0
    for has in labels[:, 0]:
        x = rng.normal(size=(20, 6)) * 0.1
        x[:5, 2] += 4.0 * has
        arrays.append(x.astype(np.float32))
    data = join(arrays, {})
    model = make_autoencoder("relu", 6, latents=12)
    model.decoder[...] = model.encoder[...] = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)
    figures, reference = measure(model, data, np.arange(80), np.arange(80, 120), labels, ["has it"])
    assert figures["measured"] == {"held_out_sequences": 40, "training_sequences": 80, "labels": 1}
    assert figures["covariance_fvu"] == pytest.approx(0, abs=1e-9)  # both signs of every feature: nothing is lost
    assert figures["best_latents"] == {"has it": {"latent": 2, "auroc": 1.0}}
    assert figures["sparse_probe"] == {"1": 1.0, "5": 1.0}
    assert figures["probe"] == reference["probe"] == 1.0
    assert 0 <= figures["absorption"] < 0.1
    without = measure(model, data, np.arange(80), np.arange(80, 120))
    assert set(without.figures) == {"covariance_fvu", "measured"}
    rare = np.zeros((120, 1), bool)
    rare[:3] = True
    assert measure(model, data, np.arange(80), np.arange(80, 120), rare).figures["measured"]["labels"] == 0
