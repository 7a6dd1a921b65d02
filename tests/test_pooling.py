"""One contract for all poolers: every registered name must appear in OPTIONS and pass everything below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from covjax import InputError, Pooler, get_pooler, merge, moments, pooler_names
from covjax.autoencoders.sparse import TopK
from covjax.pooling import FunctionPooler, moment_function, register

D, T = 6, 14
BASIS = np.random.default_rng(5).normal(size=(D, 3)).astype(np.float32)
SAE = TopK(D, latents=8, k=5)
CENTRES = np.random.default_rng(6).normal(size=(4, D)).astype(np.float32)
WHITENING = np.random.default_rng(7).normal(size=(D, D)).astype(np.float32)
MIXTURE = {"shares": np.array([0.1, 0.2, 0.3, 0.4]), "means": CENTRES, "variances": 1 + CENTRES**2}
OPTIONS: dict[str, list[dict]] = {
    **{name: [{}] for name in ("mean", "std", "mean_std", "max", "first", "last", "mean_outer")},
    **{name: [{}] for name in ("second_moment", "covariance", "correlation")},
    **{name: [{}] for name in ("sqrt_covariance", "sqrt_second_moment", "log_second_moment")},
    "log_covariance": [{}, {"eps": "auto"}, {"eps": 0.1, "shrink": "oas"}, {"eps": "auto", "shrink": "oas"}],
    "projected_covariance": [{"basis": BASIS, "spectral": spectral} for spectral in (None, "sqrt", "log")],
    "projected": [
        {"features": D, "rank": 3, "spectral": "sqrt"},
        {"features": D, "rank": 3, "tied": False, "center": None},
    ],
    "attention": [
        {"features": D, "heads": 2},
        {"features": D, "heads": 3, "position_bias": True},
        {"features": D, "heads": 2, "queries": 3},
    ],
    "light_attention": [{"features": D, "kernel_size": 3}],
    "attention_covariance": [{"features": D, "rank": 3, "heads": 2}],
    "tensor_sketch": [{"size": 16}, {"size": 8, "degree": 3}],
    "random_maclaurin": [{"size": 16}],
    "random_projection": [{"rank": 3}],
    **{name: [{"autoencoder": SAE}] for name in ("sae_mean", "sae_max")},
    "sae_cooccurrence": [{"autoencoder": SAE, "pairs": np.array([[0, 0], [0, 3], [2, 7]])}],
    "hybrid": [{"parts": ["mean", "log_covariance"]}],
    "regional": [{}, {"pool": "sqrt_covariance", "bins": 3, "options": {"ridge": 0.1}}],
    "lagged_covariance": [{}, {"lags": (1, 3)}],
    "dct": [{}],
    "power_means": [{}],
    "standardised_moments": [{}],
    "sliced_wasserstein": [{"slices": 5, "points": 4}, {"slices": 5, "points": 4, "features": D}],
    "kernel_mean": [{"bandwidth": 2.0, "frequencies": 8}],
    "vlad": [{"centres": CENTRES}],
    "fisher_vector": [MIXTURE],
    "whitened_mean": [{"center": CENTRES[0], "whitening": WHITENING}],
    "whitened_covariance": [{"whitening": WHITENING}],
    "tangent_space": [{"whitening": WHITENING, "eps": 0.1}, {"whitening": BASIS}],
    **{name: [{}] for name in ("gaussian", "signed_sqrt", "isqrt_covariance")},
}
CASES = [(name, i) for name, options in OPTIONS.items() for i in range(len(options))]
LENGTH = 3 * T  # all sequences are padded to one length, so that every pooler is compiled once for all tests


class Case:
    """A pooler with its compiled value and gradient on padded sequences."""

    def __init__(self, name, index):
        self.name, self.options = name, OPTIONS[name][index]
        self.pool = self.make()
        self.traces = 0
        self.value = jax.jit(self._traced)
        self.gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(self.pool(x, w)))))

    def _traced(self, x, w):
        self.traces += 1
        return self.pool(x, w)

    def make(self):
        """The pooler, with parameters that start at 0 moved off it."""
        pool = get_pooler(self.name, **self.options)
        if isinstance(pool, nnx.Module) and getattr(pool, "position", None) is not None:
            pool.position[...] = jnp.array([[0.5, -0.2, 0.1], [0.3, 0.4, -0.6]], pool.position[...].dtype)
        return pool


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    return Case(*request.param)


def tokens(rng, t=T):
    return (rng.normal(size=(t, D)) @ np.diag(np.arange(1, D + 1) / 3) + 0.5).astype(np.float32)


def pad(x, w=None, start=0, fill=np.nan):
    """Tokens and weights at `start` of a sequence of LENGTH tokens, garbage around them."""
    padded, weights = np.full((LENGTH, D), fill, np.float32), np.zeros(LENGTH, np.float32)
    padded[start : start + len(x)] = x
    weights[start : start + len(x)] = 1 if w is None else w
    return padded, weights


def close(a, b, tol=2e-5):
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * max(1.0, float(np.abs(b).max())))


def test_every_registered_pooler_is_under_contract():
    assert set(pooler_names()) == set(OPTIONS)


def test_shape_type_and_protocol(rng, case):
    vector = case.value(*pad(tokens(rng)))
    assert vector.ndim == 1
    assert vector.dtype == jnp.float32
    assert isinstance(case.pool, Pooler)
    assert isinstance(case.pool.permutation_invariant, bool)
    assert case.pool.name == case.name or case.name == "hybrid"
    assert isinstance(hash(case.pool), int)
    assert not np.allclose(vector, case.value(*pad(tokens(rng))))


def test_jit_agrees_and_compiles_once(rng, case):
    x = tokens(rng)
    close(case.value(*pad(x)), case.pool(x))
    close(case.value(*pad(x, start=7)), case.pool(x))
    assert case.traces == 1
    if isinstance(case.pool, FunctionPooler):
        assert case.make() == case.pool


def test_moments_of_parts_that_were_merged_give_the_same_where_moments_are_enough(rng, case):
    function = moment_function(case.pool)
    moment_names = {name for name in OPTIONS if name.endswith(("second_moment", "covariance"))} | {"hybrid"}
    moment_names |= {"mean", "std", "mean_std", "mean_outer", "correlation"}
    moment_names |= {"gaussian", "signed_sqrt", "tangent_space", "whitened_mean"}
    tokens_needed = {"projected_covariance", "attention_covariance", "lagged_covariance"}
    has_shrinkage = "shrink" in case.options
    assert (function is not None) == (case.name in moment_names - tokens_needed and not has_shrinkage)
    if function is not None:
        x = tokens(rng) + 3
        w = rng.integers(0, 3, T).astype(np.float32)
        close(jax.jit(function)(merge(moments(x[:5], w[:5]), moments(x[5:], w[5:]))), case.pool(x, w), 2e-4)
    assert moment_function(get_pooler("hybrid", parts=["mean", "max"])) is None


def test_masked_nan_reaches_neither_value_nor_gradient(rng, case):
    x = tokens(rng)
    clean = pad(x, fill=0)
    for dirty in (pad(x, start=5, fill=np.nan), pad(x, start=5, fill=np.inf)):
        close(case.value(*dirty), case.value(*clean))
        gradient = case.gradient(*dirty)
        close(gradient[5 : 5 + T], case.gradient(*clean)[:T], 1e-4)
        assert not np.delete(gradient, np.arange(5, 5 + T), axis=0).any()


def test_masked_nan_does_not_reach_the_gradient_of_parameters(rng, case):
    if not isinstance(case.pool, nnx.Module):
        pytest.skip("no parameters")
    is_real = lambda _, leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    graph, state, rest = nnx.split(case.pool, is_real, ...)
    gradient = jax.jit(jax.grad(lambda s, x, w: jnp.sum(jnp.sin(nnx.merge(graph, s, rest)(x, w)))))
    x = tokens(rng)
    dirty, clean = (jax.tree.leaves(gradient(state, *pad(x, fill=fill))) for fill in (np.nan, 0))
    for a, b in zip(dirty, clean, strict=True):
        close(a, b, 1e-4)


def test_order_of_tokens(rng, case):
    x = tokens(rng)
    if case.pool.permutation_invariant:
        close(case.value(*pad(x[rng.permutation(T)])), case.value(*pad(x)))
    else:
        other = x[np.r_[0:T:2, 1:T:2][::-1]]  # backwards and with other neighbours
        assert np.abs(case.value(*pad(other)) - case.value(*pad(x))).max() > 1e-3


def test_a_token_of_weight_k_is_a_token_seen_k_times(rng, case):
    if case.name == "light_attention" or case.options.get("position_bias") or "shrink" in case.options:
        pytest.skip("repeating a token moves its neighbours")
    x, w = tokens(rng), rng.integers(0, 4, T)
    close(case.value(*pad(x, w)), case.value(*pad(np.repeat(x, w, axis=0))), 1e-4)


def test_neighbours_in_the_batch_do_not_matter(rng, case):
    batch = jax.jit(jax.vmap(case.pool))
    first, others = pad(tokens(rng)), [pad(1e4 * tokens(rng)), pad(tokens(rng, 3)), pad(tokens(rng, LENGTH))]
    one, other = (batch(*map(np.stack, zip(first, *rest))) for rest in (others[:2], others[1:]))
    np.testing.assert_array_equal(one[0], other[0])
    close(one[0], case.value(*first))


def test_gradient_matches_finite_differences_in_float64(rng, case):
    with jax.enable_x64(True):
        pool = case.make()
        x, direction = jnp.asarray(tokens(rng), jnp.float64), jnp.asarray(rng.normal(size=(T, D)))
        w = jnp.asarray(rng.uniform(0.2, 1, T))

        @jax.jit
        @jax.value_and_grad
        def value(x):
            vector = pool(x, w)
            return jnp.vdot(vector, jnp.cos(jnp.arange(vector.size)))

        whole, gradient = value(x)
        assert whole.dtype == jnp.float64
        step = 1e-5
        difference = (value(x + step * direction)[0] - value(x - step * direction)[0]) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-5, atol=1e-8)


def test_bfloat16_in_gives_float32_out(rng, case):
    x, w = pad(tokens(rng))
    x = jnp.asarray(x, jnp.bfloat16)
    vector = jax.jit(case.pool)(x, w)
    assert vector.dtype == jnp.float32
    close(vector, case.value(x.astype(jnp.float32), w), 2e-2)  # projections are rounded to bfloat16 with the tokens


def test_degenerate_sequences_stay_finite_with_finite_gradients(rng, case):
    few = tokens(rng, 2)
    for x in (few, few[:1], np.zeros((5, D), np.float32), np.full((4, D), 0.1, np.float32), few[:0]):
        assert np.isfinite(case.value(*pad(x))).all()
        assert np.isfinite(case.gradient(*pad(x))).all()
    with pytest.raises(InputError, match="weights must not all be 0"):
        case.pool(*pad(few[:0]))


def test_bad_tokens_and_weights_name_the_argument(case):
    pool = case.pool
    with pytest.raises(TypeError, match="x must be a floating-point"):
        pool(np.ones((T, D), np.int32))
    with pytest.raises(InputError, match="x must have shape"):
        pool(np.ones((2, T, D), np.float32))
    with pytest.raises(InputError, match="weights must be finite and >= 0, got -1"):
        pool(np.ones((2, D), np.float32), np.array([1.0, -1.0]))
    with pytest.raises(InputError, match="weights must have shape"):
        pool(np.ones((2, D), np.float32), np.ones(3))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("medain", {}, "unknown pooler 'medain'; allowed: attention, .*covariance"),
        ("log_covariance", {"ridge": 1}, "has no option 'ridge'; allowed: eps"),
        ("mean", {"x": 1}, "has no option 'x'; allowed: none"),
        ("projected_covariance", {}, "needs the option 'basis'"),
        ("projected_covariance", {"basis": BASIS, "spectral": "cube"}, "spectral must be"),
        ("projected_covariance", {"basis": BASIS[0]}, "basis must have shape"),
        ("log_covariance", {"eps": 0.0}, "eps must be > 0"),
        ("log_covariance", {"eps": "rule"}, "eps must be > 0 or 'auto', got 'rule'"),
        ("log_covariance", {"shrink": "ledoit_wolf"}, "shrink must be None or 'oas'"),
        ("sqrt_covariance", {"ridge": -1.0}, "ridge must be >= 0"),
        ("attention", {"features": 6, "heads": 4}, "heads must divide features 6, got 4"),
        ("projected", {"features": 6, "rank": 0}, "rank must be an integer >= 1"),
        ("projected", {"features": 6, "tied": False, "spectral": "log"}, "spectral needs tied=True"),
        ("projected", {"features": 6, "center": "batch"}, "center must be"),
        ("tensor_sketch", {"size": 0}, "size and degree must be >= 1"),
        ("random_projection", {"rank": 0}, "rank must be >= 1"),
        ("hybrid", {"parts": "mean"}, "parts must be a non-empty list"),
    ],
)
def test_bad_options_list_what_is_allowed(name, options, match):
    with pytest.raises(InputError, match=match):
        get_pooler(name, **options)


def test_a_name_is_registered_once():
    with pytest.raises(InputError, match="'mean' is already registered"):
        register("mean")(lambda: None)


def test_values_against_numpy(rng):
    x = tokens(rng)
    x64, upper = x.astype(np.float64), np.triu_indices(D)
    scale = np.where(upper[0] == upper[1], 1, np.sqrt(2))
    covariance = np.cov(x64.T, bias=True)
    s, v = np.linalg.eigh(covariance)
    mean = x64.mean(0)
    expected = {
        "mean": mean,
        "std": x64.std(0),
        "max": x64.max(0),
        "first": x64[0],
        "last": x64[-1],
        "second_moment": (x64.T @ x64 / T)[upper] * scale,
        "covariance": covariance[upper] * scale,
        "correlation": np.corrcoef(x64.T)[upper] * scale,
        "mean_outer": np.outer(mean, mean)[upper] * scale,
        "sqrt_covariance": ((v * np.sqrt(s + 1e-6)) @ v.T)[upper] * scale,
        "log_covariance": ((v * np.log(s + 0.1)) @ v.T)[upper] * scale,
    }
    for name, vector in expected.items():
        close(get_pooler(name)(x), vector)


def test_attention_values_against_numpy(rng):
    x = tokens(rng)
    pool = get_pooler("attention", features=D, heads=2)
    logits = x @ np.asarray(pool.queries[...])
    alpha = np.exp(logits) / np.exp(logits).sum(0)
    values = x @ np.asarray(pool.values[...])
    close(pool(x), np.concatenate([alpha[:, 0] @ values[:, :3], alpha[:, 1] @ values[:, 3:]]))
    pool = get_pooler("attention", features=D, heads=1, queries=2)
    logits, values = x @ np.asarray(pool.queries[...]), x @ np.asarray(pool.values[...])
    close(pool(x), ((np.exp(logits) / np.exp(logits).sum(0)).T @ values).reshape(-1))
    pool = get_pooler("attention_covariance", features=D, rank=3)
    logits = x @ np.asarray(pool.queries[...])[:, 0]
    alpha = np.exp(logits) / np.exp(logits).sum()
    y = x @ np.asarray(pool.basis[...])
    expected = np.cov(y.T, aweights=alpha, ddof=0)[np.triu_indices(3)] * np.array([1, 2, 2, 1, 2, 1]) ** 0.5
    close(pool(x), expected)


def test_learned_poolers_train_their_projections(rng):
    pool = get_pooler("projected", features=D, rank=3)
    target = jnp.arange(6.0)
    x = tokens(rng)

    def loss(pool):
        return jnp.mean((pool(x) - target) ** 2)

    before = loss(pool)
    for _ in range(20):
        gradients = nnx.grad(loss)(pool)
        nnx.update(pool, jax.tree.map(lambda p, g: p - 0.02 * g, nnx.state(pool, nnx.Param), gradients))
    assert loss(pool) < 0.7 * before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kernel_mean", {"frequencies": 8, "bandwidth": np.ones(())}),
        ("sliced_wasserstein", {"slices": 4, "points": 2}),
        ("tensor_sketch", {"size": 8}),
        ("random_maclaurin", {"size": 8}),
    ],
)
def test_what_is_drawn_is_the_same_where_jax_has_64_bits(rng, name, options):
    x = rng.normal(size=(6, 3)).astype(np.float32)
    plain = np.asarray(get_pooler(name, **options)(x))
    with jax.enable_x64(True):
        wide = np.asarray(get_pooler(name, **options)(x))
    assert wide.dtype == np.float32
    np.testing.assert_allclose(wide, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e13])
def test_power_means_of_any_scale(scale):
    x = np.float32(scale) * np.array([[1.0], [2], [3]], np.float32)
    expected = scale * np.array([2, (14 / 3) ** 0.5, 12 ** (1 / 3), (98 / 3) ** 0.25])
    np.testing.assert_allclose(get_pooler("power_means", powers=(1, 2, 3, 4))(x), expected, rtol=1e-5)
