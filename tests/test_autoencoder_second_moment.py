"""Tucker and CP losses against their definition with S written out, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, projected_moment
from covjax.autoencoders import (
    cp_latents,
    cp_loss,
    evaluate_fvu,
    fvu,
    make_autoencoder,
    moment_norm,
    pca_basis,
    solve_tucker,
    tucker_loss,
)

T, D, R = 60, 12, 5
LOSSES = {"tucker": tucker_loss, "cp": cp_loss}


def moment(x, w, center, xp=np):
    mean = w @ x / w.sum()
    shift = 0 if center is None else mean if isinstance(center, str) else center
    return ((x - shift) * w[:, None]).T @ (x - shift) / w.sum()


def explicit(kind, s, a, b, prefixes):
    """Mean over prefixes of ‖S − Ŝ‖² − ‖S‖², NumPy or JAX."""
    total = 0
    for r in prefixes:
        ar, br = a[:, :r], b[:, :r]
        c = ar.T @ s @ br
        if kind == "cp":
            c = c * np.eye(r)
        total += ((s - ar @ c @ br.T) ** 2).sum() - (s**2).sum()
    return total / len(prefixes)


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(T, D)) @ rng.normal(size=(D, D)) + 1
    w = rng.uniform(size=T) * (rng.uniform(size=T) < 0.8)
    a, b = rng.normal(size=(2, D, R)) / D**0.5
    return x, w, a, b, rng.normal(size=D)


def cases(test):
    test = pytest.mark.parametrize("kind", LOSSES)(test)
    test = pytest.mark.parametrize("tied", [True, False])(test)
    test = pytest.mark.parametrize("center", [None, "sequence", "vector"])(test)
    return pytest.mark.parametrize("prefixes", [None, (1, 3, R), (2, 4)])(test)


@cases
def test_loss_and_gradient_equal_the_explicit_form(problem, kind, tied, center, prefixes):
    x, w, a, b, vector = problem
    center = vector if center == "vector" else center
    b = a if tied else b
    dirty = np.where(w[:, None] > 0, x, np.nan)
    with jax.enable_x64(True):
        s = jnp.asarray(moment(x, w, center))
        reference = lambda p: explicit(kind, s, p[0], p[-1], prefixes or (R,))
        ours = lambda p: LOSSES[kind](dirty, p[0], None if tied else p[1], w, center=center, prefixes=prefixes)
        parameters = (jnp.asarray(a),) if tied else (jnp.asarray(a), jnp.asarray(b))
        expected, gradient = jax.value_and_grad(reference)(parameters)
        value, ours_gradient = jax.jit(jax.value_and_grad(ours))(parameters)
        assert value == pytest.approx(float(expected), rel=1e-10)
        for mine, theirs in zip(ours_gradient, gradient, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())
    assert float(expected) == pytest.approx(
        explicit(kind, moment(x, w, center), a, b, prefixes or (R,)), rel=1e-10
    )  # and the reference is NumPy's too


@pytest.mark.parametrize("kind", LOSSES)
def test_float32_batch_with_masked_tokens_is_within_1e_6(problem, kind):
    x, w, a, b, _ = problem
    s = moment(x, w, None)
    expected = explicit(kind, s, a, b, (R,))
    dirty = np.where(w[:, None] > 0, x, np.nan).astype(np.float32)
    batch, weights = np.stack([dirty, dirty[::-1]]), np.stack([w, w[::-1]]).astype(np.float32)
    sides = a.astype(np.float32), b.astype(np.float32)
    loss = lambda a, b: jnp.mean(jax.vmap(LOSSES[kind], (0, None, None, 0))(batch, a, b, weights))
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(*sides)
    # In units of FVU: here Tucker's terms cancel to 0.5 % of themselves, so that rounding the inputs to float32 alone
    # moves the value by 3e-6 of itself.
    assert value == pytest.approx(expected, abs=2e-7 * (s**2).sum())
    with jax.enable_x64(True):
        reference = jax.grad(lambda a, b: explicit(kind, jnp.asarray(s), a, b, (R,)), (0, 1))(a, b)
    for mine, theirs in zip(gradients, reference, strict=True):
        assert np.linalg.norm(np.asarray(mine, np.float64) - np.asarray(theirs)) < 1e-6 * np.linalg.norm(theirs)


def test_bfloat16_tokens_give_float32_within_their_rounding(problem):
    x, w, a, b, _ = problem
    low, a, b = (jnp.asarray(v, jnp.bfloat16) for v in (x, np.linalg.qr(a)[0], np.linalg.qr(b)[0]))
    s = moment(np.asarray(low, np.float64), w, None)
    expected = explicit("tucker", s, np.asarray(a, np.float64), np.asarray(b, np.float64), (R,))
    value, gradient = jax.value_and_grad(tucker_loss, 1)(low, jnp.float32(a), jnp.float32(b), jnp.float32(w))
    assert value.dtype == gradient.dtype == jnp.float32
    assert value == pytest.approx(expected, abs=2e-3 * (s**2).sum())


def test_norm_and_fvu_between_perfect_and_zero(problem):
    x, w, _, _, vector = problem
    for tokens, weights in ((x, w), (x[:8], None)):  # features smaller, tokens smaller
        plain = np.ones(len(tokens)) if weights is None else weights
        for center in (None, "sequence", vector):
            expected = (moment(tokens, plain, center) ** 2).sum()
            norm = moment_norm(tokens.astype(np.float32), weights, center=center)
            assert norm == pytest.approx(expected, rel=1e-5)
    norm = moment_norm(x, w)
    assert fvu(tucker_loss(x, np.eye(D, dtype=np.float32), None, w), norm) == pytest.approx(0, abs=1e-5)
    assert fvu(tucker_loss(x, np.zeros((D, R), np.float32), None, w), norm) == 1


def test_latents_are_the_diagonal_of_the_projected_moment(problem):
    x, w, a, b, vector = problem
    for center in (None, "sequence", vector):
        whole = projected_moment(x, a, b, w, center=center)
        np.testing.assert_allclose(cp_latents(x, a, b, w, center=center), np.diagonal(whole), rtol=1e-4, atol=1e-4)


def test_memory_and_compilation_know_no_second_moment():
    t, d, r = 4096, 512, 8
    x, a = jnp.ones((t, d)), jnp.ones((d, r))
    compiled = jax.jit(jax.value_and_grad(tucker_loss, (1, 2))).lower(x, a, a).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * (4 * t * r + 16 * d * r)


def test_a_masked_sequence_adds_nothing(problem):
    x, _, a, b, _ = problem
    value, gradient = jax.jit(jax.value_and_grad(tucker_loss, 1))(np.full_like(x, np.nan), a, b, np.zeros(T))
    assert value == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": np.ones((D + 1, R))}, "left must have shape"),
        ({"right": np.ones((D, R + 1))}, "right must have the shape of left"),
        ({"prefixes": (3, 2)}, "increasing"),
        ({"prefixes": (0, 2)}, "increasing"),
        ({"prefixes": (R + 1,)}, "exceed the rank"),
        ({"center": "mean"}, "center must be"),
        ({"center": np.ones(D + 1)}, "center must have shape"),
        ({"weights": -np.ones(T)}, "weights must be finite"),
    ],
)
def test_bad_input_is_named(problem, change, message):
    x, w, a, b, _ = problem
    with pytest.raises(InputError, match=message):
        tucker_loss(**({"x": x, "left": a, "right": b, "weights": w} | change))
    with pytest.raises(TypeError, match="floating-point"):
        cp_loss(x.astype(int), a, b)


@pytest.mark.long
def test_batches_of_other_arrays_mean_the_same(rng):
    x, w = rng.normal(size=(3, 5, 4)).astype(np.float32), (rng.random((3, 5)) < 0.8).astype(np.float32)
    modules = [make_autoencoder("tucker", 4, rank=2), make_autoencoder("cp", 4, rank=2, standardise=True)]
    for module in modules:
        module.initialise([(x, w)])
        expected, figures = module.loss(x, w)[0], module.summarise(module.evaluate(x, w))
        embedding = module(x[0], w[0])
        for form, weights in ((x.tolist(), w.tolist()), (x.astype(">f4"), w > 0), (jnp.asarray(x), jnp.asarray(w))):
            assert module.loss(form, weights)[0] == pytest.approx(float(expected), rel=1e-5)
            assert module.summarise(module.evaluate(form, weights)) == pytest.approx(figures, rel=1e-5)
            np.testing.assert_allclose(module(form[0], weights[0]), embedding, rtol=1e-5)
    expected = evaluate_fvu([(x, w)], np.eye(4)[:, :2])
    assert evaluate_fvu([(x.tolist(), w.tolist())], np.eye(4)[:, :2]) == pytest.approx(expected, rel=1e-5)
    expected = solve_tucker([(x, w)], 2, starts=2).fvu
    assert solve_tucker([(x.tolist(), w > 0)], 2, starts=2).fvu == pytest.approx(expected)
    assert solve_tucker(((x * 1e20, w) for _ in range(1)), 2, starts=2).fvu == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_bad_batches_are_refused(rng):
    x, w = rng.normal(size=(3, 5, 4)).astype(np.float32), np.ones((3, 5), np.float32)
    bad = [
        (np.where(x > 1, np.nan, x), w, "must be finite"),
        (x, -w, "weights must be finite and >= 0"),
        (x, w * np.nan, "weights must be finite and >= 0"),
        (x, w[:, :3], r"weights must have shape \(3, 5\), got \(3, 3\)"),
        (x[0], None, r"must have shape \(sequences, tokens, features\)"),
        (x[:0], None, r"must have shape \(sequences, tokens, features\)"),
        (x.astype(int), None, "must be floating-point"),
    ]
    module = make_autoencoder("tucker", 4, rank=2)
    calls = [
        module.loss,
        module.evaluate,
        lambda x, w: solve_tucker([(x, w)], 2),
        lambda x, w: pca_basis([(x, w)], 2),
        lambda x, w: evaluate_fvu([(x, w)], np.eye(4)[:, :2]),
    ]
    for tokens, weights, message in bad:
        for call in calls:
            with pytest.raises(InputError, match=message):
                call(tokens, weights)
    for call in (calls[2], calls[4], lambda x, w: module.summarise(module.evaluate(x, w))):
        with pytest.raises(InputError, match="no sequence with a second moment above 0"):
            call(x * 0, w)
    for rank in (2.5, "2", None):
        with pytest.raises(InputError, match="a whole number"):
            solve_tucker([(x, w)], rank)
    with pytest.raises(InputError, match="must be a pair"):
        solve_tucker([x], 2)
    with pytest.raises(InputError, match=r"center must have shape \(4,\)"):
        solve_tucker([(x, w)], 2, center=np.zeros(3))
    for features in (4.0, "4", None, True):
        with pytest.raises(InputError, match="features: .* must be a whole number >= 1"):
            make_autoencoder("topk", features, latents=6, k=2)
