"""Functions of matrices by products alone against float64, `eigh` in float32, and their fall-back to it."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import spectral
from covjax.spectral import by_eigh, by_products
from covjax.spectral_products import function_by_products, log_slope_by_products
from tests.test_spectral import divided, relative

# kind and power → the function of an eigenvalue and its derivative
CASES = {
    ("sqrt", 0.5): (np.sqrt, lambda s: 0.5 / np.sqrt(s)),
    ("log", 0.0): (np.log, lambda s: 1 / s),
    ("power", -0.5): (lambda s: s**-0.5, lambda s: -0.5 * s**-1.5),
    ("power", 0.3): (lambda s: s**0.3, lambda s: 0.3 * s**-0.7),
    ("power", -1.0): (lambda s: 1 / s, lambda s: -1 / s**2),
}
LIMITS = {("sqrt", 0.5): 1e6}  # condition to which the error is at most 1e-4; the others: 1e3


def matrices(rng, condition, d=40):
    """One with its eigenvalues spread, ties among them, one where a single one is large."""
    spread = np.logspace(0, -np.log10(condition), d)
    spread[1:5] = spread[0]
    lone = np.full(d, 1 / condition) * rng.uniform(1, 2, d)
    lone[0], lone[1] = 1, 1 / condition
    q = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2)]
    a = np.stack([7 * (v * s) @ v.T for v, s in zip(q, (spread, lone))])
    return ((a + a.swapaxes(1, 2)) / 2).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("condition", [10, 1e3, 1e6])
def test_values(rng, case, condition):
    (kind, power), (function, _) = case, CASES[case]
    a = matrices(rng, condition)
    s, v = np.linalg.eigh(a.astype(np.float64))
    exact = np.einsum("nij,nj,nkj->nik", v, function(s), v)
    values, errors = jax.jit(jax.vmap(lambda a: function_by_products(a, kind, 0.0, power)))(a)
    final = jax.jit(jax.vmap(lambda a: by_products(a, kind, 0.0, power)))(a)
    usual = jax.jit(jax.vmap(lambda a: by_eigh(a, kind, 0.0, power)))(a)
    for i in range(len(a)):
        limit = 1e-4 if condition <= LIMITS.get(case, 1e3) else 2 * relative(usual[i], exact[i])
        assert relative(final[i], exact[i]) <= limit
        error = relative(values[i], exact[i])
        assert error <= 3 * errors[i] + 2e-5  # what decides the fall-back is no underestimate


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("condition", [10, 1e3])
def test_gradients(rng, case, condition):
    (kind, power), (function, derivative) = case, CASES[case]
    a = matrices(rng, condition)
    weight = rng.normal(size=a.shape)

    def gradient(f):
        total = lambda a: jnp.sum(jax.vmap(lambda a: f(a, kind, 0.0, power))(a) * weight.astype(np.float32))
        return jax.jit(jax.grad(total))(a)

    s, v = np.linalg.eigh(a.astype(np.float64))
    ours, reference = gradient(by_products), gradient(by_eigh)
    for i in range(len(a)):
        even = (weight[i] + weight[i].T) / 2
        exact = v[i] @ (divided(function, derivative)(s[i]) * (v[i].T @ even @ v[i])) @ v[i].T
        assert relative(ours[i], exact) <= max(1e-4, relative(reference[i], exact))


@pytest.mark.long
def test_forward_and_reverse_mode_agree(rng):
    a, step, weight = jnp.asarray(matrices(rng, 100)[0]), *rng.normal(size=(2, 40, 40)).astype(np.float32)
    function = lambda a: by_products(a, "log", 0.1, 0.0)
    tangent = jax.jvp(function, (a,), (step,))[1]
    (gradient,) = jax.vjp(function, a)[1](jnp.asarray(weight))
    np.testing.assert_allclose(jnp.vdot(tangent, weight), jnp.vdot(gradient, step), rtol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqrt", "log"])
def test_what_does_not_converge_goes_to_eigh_with_its_batch(kind):
    a = jnp.stack([3 * jnp.eye(40), jnp.diag(jnp.zeros(40).at[0].set(1.0))])
    floor = 1e-9 if kind == "log" else 0.0
    _, errors = jax.vmap(lambda a: function_by_products(a, kind, floor, 0.5))(a)
    assert (errors <= spectral.TOLERANCE).tolist() == [True, False]
    batch = jax.vmap(lambda a: by_products(a, kind, floor, 0.5))
    np.testing.assert_array_equal(batch(a), jax.vmap(lambda a: by_eigh(a, kind, floor, 0.5))(a))
    gradients = [jax.grad(lambda a, f=f: jnp.sum(jax.vmap(lambda a: f(a, kind, floor, 0.5))(a)))(a) for f in
                 (by_products, by_eigh)]  # fmt: skip
    np.testing.assert_array_equal(*gradients)


def test_a_batch_runs_one_of_both():
    """A `cond` with one choice for the batch, and not a `select` between two results."""
    a = jax.ShapeDtypeStruct((3, 40, 40), jnp.float32)
    jaxpr = jax.make_jaxpr(jax.vmap(lambda a: by_products(a, "log", 0.1, 0.0)))(a)

    def conditions(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "cond" and "platform_index" not in str(equation.invars[0]):
                yield equation.invars[0].aval.shape
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from conditions(inner)

    assert () in list(conditions(jaxpr.jaxpr))


@pytest.mark.parametrize("largest", [1.0, 100.0, 1e4])
def test_the_slope_of_the_logarithm(rng, largest):
    s = np.concatenate([np.zeros(10), np.logspace(-6, 0, 30)]) * largest
    q, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    floor = 0.1
    exact = (q * np.where(s > 0, np.log1p(s / floor) / np.where(s > 0, s, 1), 1 / floor)) @ q.T
    slope, error = jax.jit(lambda a: log_slope_by_products(a, floor))(((q * s) @ q.T).astype(np.float32))
    if largest == 1e4:
        assert not error < np.inf  # 1e5 times the floor is beyond its polynomial
    else:
        assert relative(slope, exact) < 1e-4
        assert error < 1e-4


@pytest.mark.parametrize("floor", [0.1, 1e-6])
def test_the_log_of_few_tokens(rng, floor):
    y = jnp.asarray(rng.normal(size=(40, 60)) / 40**0.5, jnp.float32)
    gram = y @ y.T
    ours = jax.jit(lambda gram, y: spectral._thin_log_by_products(gram, y, floor))(gram, y)
    exact = np.linalg.eigh(np.float64(y.T) @ np.float64(y))
    expected = (exact[1] * (np.log(np.maximum(exact[0], 0) + floor) - np.log(floor))) @ exact[1].T
    assert relative(ours, expected) < 1e-4  # the smaller floor by `eigh`


def test_a_cpu_takes_eigh_and_small_matrices_on_cuda_and_float64_too():
    by_products = {}
    for d in (40, 384, 400):
        a = jax.ShapeDtypeStruct((3, d, d), jnp.float32)
        root = jax.jit(jax.vmap(lambda a: spectral.psd_function(a, "sqrt", 0.0, 0.5))).trace(a)
        for platform in ("cpu", "cuda", "tpu"):
            products = root.lower(lowering_platforms=(platform,)).as_text().count("dot_general")
            assert products == 1 or products > 10
            by_products[d, platform] = products > 10
    assert {key for key, yes in by_products.items() if yes} == {(40, "tpu"), (384, "tpu"), (400, "cuda"), (400, "tpu")}
    with jax.enable_x64(True):
        wide = jax.ShapeDtypeStruct((40, 40), jnp.float64)
        text = jax.jit(lambda a: spectral.psd_function(a, "sqrt", 0.0, 0.5)).trace(wide)
        assert text.lower(lowering_platforms=("cuda",)).as_text().count("dot_general") == 1
