"""Numeric arguments: what may come in means the same in every form, and what may not is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import get_pooler, metrics
from covjax.autoencoders import make_autoencoder
from covjax.errors import InputError
from covjax.inputs import check_penalties, check_table, host_array, patterns
from covjax.probes import (
    fit_logistic_path,
    fit_ridge_blocks,
    fit_ridge_moments,
    fit_ridge_path,
    kernel_space,
    ridge_path,
    row_space,
    token_contributions,
)

BINARY = [np.bool_, np.int8, np.int64, np.uint8, np.float16, np.float32, np.float64, object]


@pytest.fixture
def labelled(rng):
    truth = rng.random((60, 3)) < 0.3
    return truth, np.round(rng.normal(size=(60, 3)) + truth, 1)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.fmax])
def test_labels_mean_the_same_whatever_their_type(labelled, metric):
    truth, scores = labelled
    counts = metrics.resample_counts([str(i // 2) for i in range(60)], 3, seed=0)
    expected, drawn = metric(truth, scores), metric(truth, scores, counts)
    forms = [truth.astype(dtype) for dtype in BINARY] + [
        truth.tolist(),
        jnp.asarray(truth),
        jnp.asarray(truth, jnp.bfloat16),
    ]
    for form in forms:
        np.testing.assert_array_equal(metric(form, scores), expected)
        np.testing.assert_array_equal(metric(form, scores.tolist(), counts.tolist()), drawn)


def test_a_vector_is_one_output(labelled):
    truth, scores = labelled
    for metric in (metrics.auroc, metrics.r2, metrics.pearson, metrics.spearman):
        one = metric(truth[:, 0].astype(float), scores[:, 0])
        np.testing.assert_array_equal(one, metric(truth[:, :1].astype(float), scores[:, :1]))
        assert one.shape == (1,)


def test_pytorch_tensors(labelled, rng):
    torch = pytest.importorskip("torch")
    truth, scores = labelled
    for form in (torch.tensor(truth), torch.tensor(truth).to(torch.bfloat16), torch.tensor(truth).int()):
        given = torch.tensor(scores, requires_grad=True)
        np.testing.assert_array_equal(metrics.auroc(form, given), metrics.auroc(truth, scores))
    x = rng.normal(size=(9, 4)).astype(np.float32)
    space = row_space(torch.tensor(x, requires_grad=True))
    probe = fit_ridge_path(space, space.coordinates(torch.tensor(x)), torch.tensor(x[:, 0]), [1e-6])[0]
    np.testing.assert_allclose(probe.scores(torch.tensor(x))[:, 0], x[:, 0], atol=1e-3)
    pooler = get_pooler("covariance")
    np.testing.assert_array_equal(pooler(torch.tensor(x, requires_grad=True)), pooler(x))
    half = torch.tensor(x).bfloat16()
    np.testing.assert_array_equal(pooler(half), pooler(half.float().numpy()))
    np.testing.assert_array_equal(pooler(torch.tensor(x), torch.ones(9, dtype=torch.int64)), pooler(x))
    autoencoder = make_autoencoder("topk", 4, latents=8, k=2)
    np.testing.assert_array_equal(autoencoder.encode(torch.tensor(x)), autoencoder.encode(x))
    np.testing.assert_array_equal(host_array([torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)], "x"), [1, 2])
    # Inside of a transformation there is no tensor to convert, and no message prints one.
    batch = torch.tensor(x)[None]
    with pytest.raises(TypeError) as caught:
        jax.jit(jax.vmap(pooler))(batch)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([0, 1, 2], "labels are 0 and 1, got 2 at row 2, column 0"),
        ([0, 1, -1], "labels are 0 and 1, got -1 at row 2"),
        ([0, 1, 0.5], "labels are 0 and 1, got 0.5 at row 2"),
        ([0, 1, np.inf], "truth: 1 of 3 values are NaN or inf"),
        ([0, 1, np.nan], '1 of 3 values are NaN .*missing="ignore" leaves NaN out'),
        ([0, 1, None], "1 of 3 values are NaN"),
        (["no", "yes", "no"], "truth: numbers or booleans are needed, got <U3, such as"),
        ([0, 1, "1"], "truth: numbers or booleans are needed"),
        (np.array([True, "x", None], object), "truth: numbers or booleans are needed, got 'x'"),
        ([1j, 0, 1], "truth: numbers or booleans are needed, got complex128"),
        (np.array(["2020-01-01"] * 3, "M8[D]"), "truth: numbers or booleans are needed, got datetime64"),
        ([[0], [1, 0], [1]], "truth: a list of 3 entries of different lengths"),
        (np.zeros((3, 1, 1)), "truth: shape .3, 1, 1. must be"),
        (np.zeros((0, 1)), "truth: shape .0, 1. must be"),
        (1, "truth: shape .. must be"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.fmax])
def test_truth_that_is_no_label(metric, truth, message):
    with pytest.raises(InputError, match=message):
        metric(truth, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("scores", "counts", "message"),
    [
        ([0.1, 0.2], None, "scores: shape"),
        ([0.1, 0.2, np.nan], None, "scores: 1 of 3 values are NaN or inf"),
        ([[0.1, 0.2], [0.3, 0.4]], None, "scores: shape"),
        ([0.1, 0.2, 0.3], [[1, 1]], "counts: shape .1, 2. must be .resamples, 3."),
        ([0.1, 0.2, 0.3], [1, 1, 1], "counts: shape"),
        ([0.1, 0.2, 0.3], [[1, -1, 1]], "counts: -1 is not a whole number >= 0"),
        ([0.1, 0.2, 0.3], [[1, 0.5, 1]], "counts: 0.5 is not"),
        ([0.1, 0.2, 0.3], [[1, np.nan, 1]], "counts: nan is not"),
        (["a", "b", "c"], None, "scores: numbers or booleans are needed"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.r2, metrics.spearman, metrics.average_precision])
def test_bad_scores_and_counts(metric, scores, counts, message):
    truth = [0, 1, 0]
    with pytest.raises(InputError, match=message):
        metric(truth, scores, counts)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.matthews])
@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([0, 2, 1], r"np\.eye\(k, dtype=bool\)\[y\]"),
        ([[0], [2], [1]], r"np\.eye"),
        ([[0, 2], [1, 0], [1, 0]], r"np\.eye"),
        ([[1, 1], [1, 0], [0, 1]], "row 0 has 2 classes"),
        ([[1, 0], [0, 0], [0, 1]], "row 1 has 0 classes"),
        ([[0.5, 0.5], [0, 1], [0, 1]], "labels are 0 and 1, got 0.5"),
    ],
)
def test_classes_are_one_hot(metric, truth, message):
    with pytest.raises(InputError, match=message):
        metric(truth, np.ones(np.shape(truth)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fmax_thresholds_are_decimals_in_the_type_of_the_scores(dtype):
    for hundredths in range(2, 100):
        scores = np.array([[0.995, hundredths / 100, (hundredths - 1) / 100]], dtype)
        assert metrics.fmax([[1, 1, 0]], scores) == 1


def test_fmax_equals_the_evaluator_of_cafa(rng):
    """Given decimals as thresholds: its own, 0.01 + 34 · 0.01 > 0.35 among them, miss some scores by a rounding."""
    evaluation = pytest.importorskip("cafaeval.evaluation")

    class Table:
        def __init__(self, matrix):
            self.matrix = matrix

    decimals = np.arange(1, 100) / 100
    for _ in range(50):
        truth = rng.random((20, 6)) < 0.3
        truth[np.arange(20), rng.integers(0, 6, 20)] = True
        scores = np.round(np.clip(rng.random((20, 6)) * 0.6 + truth * 0.3, 0, 1), 2)
        table = evaluation.compute_metrics(Table(scores), Table(truth), decimals, np.arange(6), None, 1)
        table = evaluation.normalize(table, "all", decimals, np.full(99, 20), "cafa")
        assert metrics.fmax(truth, scores) == pytest.approx(table["f"].max(), abs=1e-12)


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(40, 5))
    space = row_space(x)
    return x, space, space.coordinates(x)


def test_a_target_vector_is_one_output(problem):
    x, space, z = problem
    vector, column = (fit_ridge_path(space, z, y, [1e-3])[0] for y in (x[:, 0], x[:, :1]))
    np.testing.assert_array_equal(vector.weights, column.weights)
    assert vector.scores(x).shape == (40, 1)
    blocks = fit_ridge_blocks(lambda a, b: x[a:b].astype(np.float32), x[:, 0], [1e-3])[0]
    np.testing.assert_allclose(blocks.scores(x), column.scores(x), atol=1e-5)
    vector, column = (fit_logistic_path(space, z, y > 0, [1e-2], False).probes[0] for y in (x[:, 0], x[:, :1]))
    np.testing.assert_array_equal(vector.weights, column.weights)


def test_logistic_labels_mean_the_same_whatever_their_type(problem):
    x, space, z = problem
    expected = fit_logistic_path(space, z, x[:, :2] > 0, [1e-2], False).probes[0]
    for dtype in BINARY:
        probe = fit_logistic_path(space, z, (x[:, :2] > 0).astype(dtype), [1e-2], False).probes[0]
        np.testing.assert_array_equal(probe.weights, expected.weights)


@pytest.mark.parametrize(
    ("targets", "exclusive", "message"),
    [
        (np.arange(40) % 3, True, r"class numbers y \(n,\) become them by np\.eye\(k, dtype=bool\)\[y\]"),
        ((np.arange(40) % 3)[:, None], True, "class numbers"),
        ((np.arange(40) % 2)[:, None], True, "class numbers"),
        (np.eye(3)[np.arange(40) % 3] + np.eye(3)[1], True, "np.eye"),
        (np.arange(40) % 3, False, "labels are 0 and 1, got 2 at row 2"),
        (np.where(np.arange(40) % 2, 1, -1), False, "labels are 0 and 1, got -1"),
        (np.where(np.arange(40) % 2, np.nan, 1), False, "20 of 40 values are NaN"),
        (np.zeros(39), False, "targets: 39 rows, but 40 are needed"),
        (np.zeros(40), False, "column 0 has one class only in the 40 training rows"),
        (["a"] * 40, False, "targets: numbers or booleans are needed"),
    ],
)
def test_bad_logistic_targets(problem, targets, exclusive, message):
    _, space, z = problem
    with pytest.raises(InputError, match=message):
        fit_logistic_path(space, z, targets, [1e-2], exclusive)


@pytest.mark.parametrize("penalties", [[], 1.0, [0.0], [-1.0], [np.nan], [np.inf], ["1"], [[1.0]]])
def test_bad_penalties(problem, penalties):
    x, space, z = problem
    for fit in (
        lambda: fit_ridge_path(space, z, x[:, 0], penalties),
        lambda: fit_logistic_path(space, z, x[:, 0] > 0, penalties, False),
        lambda: fit_ridge_blocks(lambda a, b: x[a:b], x[:, 0], penalties),
        lambda: fit_ridge_moments(covjax.moments(x), 1, penalties),
    ):
        with pytest.raises(InputError, match="penalties: "):
            fit()
    assert check_penalties((1, np.float32(0.5))) == [1.0, 0.5]


def test_bad_features(problem):
    x, space, z = problem
    probe = fit_ridge_path(space, z, x[:, 0], [1e-3])[0]
    for call in (row_space, space.coordinates, probe.scores):
        with pytest.raises(InputError, match="features: shape"):
            call(x[0])
        with pytest.raises(InputError, match="features: 1 of 10 values are NaN or inf, first at row 0, column 0"):
            call(np.array([[np.nan, 1, 1, 1, 1], [1, 1, 1, 1, 1.0]]))
    for call in (space.coordinates, probe.scores):
        with pytest.raises(InputError, match=r"features: shape \(40, 3\) must be \(samples >= 1, 5\)"):
            call(x[:, :3])
    np.testing.assert_allclose(probe.scores(x.tolist()), probe.scores(x))


def test_small_columns_beside_a_large_one_are_kept(rng):
    for dtype in (np.float32, np.float64):
        x = np.c_[1e4 * rng.normal(size=300), rng.normal(size=(300, 3))].astype(dtype)
        space = row_space(x)
        assert len(space.eigenvalues) == 4
        probe = fit_ridge_path(space, space.coordinates(x), x[:, 1:2], [1e-12])[0]
        assert np.abs(probe.scores(x) - x[:, 1:2]).max() < 1e-3
    kernel = kernel_space(x @ x.T)
    assert len(kernel.eigenvalues) == 4
    wide = np.hstack([x, np.zeros((300, 400))])  # more features than samples: the other Gram matrix
    assert len(row_space(wide).eigenvalues) == 4
    assert len(row_space(np.hstack([x, x])).eigenvalues) == 4  # and a copy of a column adds no direction


def test_kernel_values_within_their_rounding_are_equal_samples(rng):
    noise = 1 + 2e-8 * np.eye(12)
    with pytest.raises(InputError, match="training samples are equal"):
        kernel_space(noise.astype(np.float32))
    assert len(kernel_space(noise).eigenvalues) == 11  # which a float64 kernel can tell apart


@pytest.mark.parametrize("name", ["mean", "covariance", "sqrt_covariance", "max", "tensor_sketch"])
def test_tokens(rng, name):
    pooler = get_pooler(name)
    x = rng.normal(size=(6, 3)).astype(np.float32)
    np.testing.assert_array_equal(pooler(x.tolist(), [1] * 6), pooler(x))
    for whole in (np.arange(6).reshape(3, 2), [[1, 2], [3, 4]], np.ones((3, 2), bool)):
        with pytest.raises(TypeError, match=r"floating-point array .* numbers: x.astype\(np.float32\)") as caught:
            pooler(whole)
        assert isinstance(caught.value, InputError)
    with pytest.raises(InputError, match=r"x is a list of 2 arrays of different shapes.*\[pooler\(x\) for x in"):
        pooler([x, x[:2]])
    with pytest.raises(InputError, match="x is a list of 2 arrays of different shapes"):
        pooler([[[1.0], [1.0, 2.0]], [[1.0]]])
    with pytest.raises(InputError, match="batches: jax.vmap"):
        pooler([x, x])
    with pytest.raises(InputError, match="weights: numbers or booleans are needed"):
        pooler(x, ["a"] * 6)
    with pytest.raises(InputError, match=r"weights must have shape \(6,\)"):
        pooler(x, [1.0] * 5)


def test_other_public_functions_take_lists_and_whole_numbers():
    matrix = [[2, 1], [1, 2]]
    np.testing.assert_allclose(covjax.psd_sqrt(matrix) @ covjax.psd_sqrt(matrix), matrix, atol=1e-5)
    np.testing.assert_allclose(covjax.unvech(covjax.vech(matrix).tolist()), matrix, atol=1e-6)
    np.testing.assert_allclose(covjax.newton_schulz_sqrt(matrix)[0], covjax.psd_sqrt(matrix), atol=1e-4)
    x = [[1.0, 2.0], [3.0, 5.0]]
    np.testing.assert_allclose(
        covjax.projected_moment(x, matrix),
        (np.array(matrix).T @ np.asarray(covjax.second_moment(x)) @ np.array(matrix)),
    )
    np.testing.assert_allclose(covjax.shrink(matrix, 0.5), [[2, 0.5], [0.5, 2]])
    np.testing.assert_allclose(covjax.gram([x, x])[0, 1], np.sum(np.asarray(covjax.second_moment(x)) ** 2), rtol=1e-6)
    with pytest.raises(InputError, match="a must be finite, got 1 entries"):
        covjax.psd_log([[np.nan, 0], [0, 1.0]], 0.1)
    with pytest.raises(InputError, match="a: numbers or booleans are needed"):
        covjax.vech([["1", "2"], ["2", "1"]])
    with pytest.raises(InputError, match="chunks must have equal features"):
        covjax.streaming_moments([np.ones((2, 3)), np.ones((2, 4))])
    probe = fit_ridge_path(row_space(np.eye(3)), row_space(np.eye(3)).coordinates(np.eye(3)), [1, 2, 3], [1.0])[0]
    score = probe.scores(covjax.vech(covjax.second_moment(x))[None])[0, 0]
    np.testing.assert_allclose(token_contributions(probe, x).sum(), score - probe.bias[0], rtol=1e-5)


def test_masked_arrays_and_traced_values():
    masked = np.ma.masked_array([1.0, 0.0, 1.0], [False, False, True])
    np.testing.assert_array_equal(host_array(masked, "y"), [1, 0, np.nan])
    np.testing.assert_array_equal(host_array(np.ma.masked_array([1, 0]), "y"), [1, 0])
    with pytest.raises(InputError, match="truth: its values are not known inside jit"):
        jax.jit(lambda y: metrics.auroc(y, y))(jnp.ones(3))
    with pytest.raises(InputError, match="y: 2 columns, but 3 are needed"):
        check_table(np.ones((2, 2)), "y", columns=3)


def test_columns_with_the_same_rows_come_together():
    present = np.array([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1]], bool)
    groups = [(rows.astype(int).tolist(), columns.tolist()) for rows, columns in patterns(present)]
    assert groups == [([1, 1, 0], [0, 2]), ([0, 1, 1], [1]), ([1, 0, 1], [3])]


POOLERS = {
    "mean": {},
    "covariance": {},
    "log_covariance": {},
    "attention": {"features": 4},
    "projected": {"features": 4},
}


@pytest.mark.parametrize("name", POOLERS)
def test_tokens_of_any_byte_order_and_container(rng, name):
    pooler, x = get_pooler(name, **POOLERS[name]), rng.normal(size=(7, 4)).astype(np.float32)
    expected = pooler(x)
    for form in (x.astype(">f4"), np.ma.array(x), x.astype(object), x[::-1][::-1]):
        np.testing.assert_allclose(pooler(form), expected, atol=1e-6)


@pytest.mark.parametrize("name", POOLERS)
def test_tokens_that_no_number_comes_of_are_refused(rng, name):
    pooler, x = get_pooler(name, **POOLERS[name]), rng.normal(size=(7, 4)).astype(np.float32)
    hole = np.arange(28).reshape(7, 4) == 9
    bad = [
        (np.where(hole, np.nan, x), "x must be finite, got 1 tokens"),
        (jnp.where(hole, jnp.inf, x), "x must be finite, got 1 tokens"),
        (jnp.where(hole, jnp.nan, x).astype(jnp.bfloat16), "x must be finite, got 1 tokens"),
        (x * np.float32(1e20), r"squares are beyond float32; divide it"),
        (x.astype(np.float64) * 1e300, r"squares are beyond float32; divide it"),
        (x * np.float32(1e-20), r"squares are beyond float32; divide it"),
        (np.ma.array(x, mask=hole), "x has masked entries"),
    ]
    for tokens, message in bad:
        with pytest.raises(InputError, match=message):
            pooler(tokens)
    keep = ~hole.any(1)
    np.testing.assert_allclose(pooler(np.where(hole, np.nan, x), keep), pooler(x, keep), atol=1e-6)
    assert np.isfinite(pooler(np.zeros((3, 4), np.float32))).all()


def test_weights_beyond_float32_are_refused(rng):
    x = rng.normal(size=(3, 2)).astype(np.float32)
    for size in (1e-300, 1e-40, 1e38, 1e300):
        with pytest.raises(InputError, match="weights reach .*; divide them by their largest"):
            covjax.moments(x, np.full(3, size))
    with pytest.raises(InputError, match="weights must be real numbers"):
        covjax.moments(x, jnp.ones(3, jnp.complex64))
    np.testing.assert_allclose(covjax.moments(x, [1.0, 1.0, 1e-300]).mean, x[:2].mean(0), rtol=1e-6)


def test_the_width_of_learned_poolers_is_named(rng):
    x = rng.normal(size=(3, 5)).astype(np.float32)
    for name in ("attention", "light_attention"):
        with pytest.raises(InputError, match="x must have 4 features, got 5"):
            get_pooler(name, features=4)(x)


def test_chunks_must_be_finite(rng):
    x = rng.normal(size=(5, 2)).astype(np.float32)
    for bad in (np.nan, np.inf, 1e30):
        with pytest.raises(InputError, match="chunks must be finite"):
            covjax.streaming_moments([x, np.where(x == x[0, 0], bad, x).astype(np.float32)])


def test_packed_sequences_take_the_widest_type(rng):
    narrow, wide = rng.normal(size=(3, 2)).astype(np.float16), np.full((2, 2), 1e5, np.float32)
    tokens, _, _ = covjax.pack_blocks([narrow, wide], 4)
    assert tokens.dtype == np.float32
    np.testing.assert_array_equal(tokens[4:6], wide)


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_features_of_any_size_give_the_same_scores(rng, size):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    one, other = (fit_ridge_path(s := row_space(f), s.coordinates(f), y, [0.1])[0].scores(f) for f in (x, x * size))
    np.testing.assert_allclose(other, one, rtol=1e-9)


def test_eigenvalues_tolerances_and_stops(problem):
    x, space, z = problem
    y = x[:, 0]
    expected = ridge_path(space.eigenvalues, z, y, [1.0])[0].weights
    np.testing.assert_allclose(ridge_path(space.eigenvalues.tolist(), z, y, [1.0])[0].weights, expected)
    for bad in (space.eigenvalues * np.nan, -space.eigenvalues, space.eigenvalues[None]):
        with pytest.raises(InputError, match="eigenvalues: shape .* finite and >= 0"):
            ridge_path(bad, z, y, [1.0])
    for tolerance in (0, -1, np.nan, 2, "a"):
        with pytest.raises(InputError, match="rank_tolerance"):
            row_space(z, tolerance)
        with pytest.raises(InputError, match="rank_tolerance"):
            kernel_space(z @ z.T, tolerance)
    labels = np.arange(len(z)) % 2
    for name, value in [("tolerance", np.nan), ("tolerance", np.inf), ("tolerance", -1), ("max_iterations", 0)]:
        with pytest.raises(InputError, match=name):
            fit_logistic_path(space, z, labels, [1.0], False, **{name: value})
    for penalty in (1e-300, 1e300):
        with pytest.raises(InputError, match="penalties: .* for float32"):
            fit_logistic_path(space, z, labels, [penalty], False)
