"""Kernels of whole matrices from factors: as from float64 features, in any blocks, in memory or on disk."""

import dataclasses
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax.activations import ArrayTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.features import make_features
from covjax.controls import shuffle_features
from covjax.data import Dataset
from covjax.embedding import kernels, passes, tables, wide
from covjax.embedding.fitted import fit_recipe
from covjax.embedding.passes import batch_limit, each_vector, pool_tokens
from covjax.embedding.plan import GIB, WORK, TooLittleMemory, VectorGroup, VectorPlan, plan_kernels, plan_vectors
from covjax.embedding.pools import FittedPool, expected_widths, fit_pools, widths
from covjax.embedding.tables import centred_probe
from covjax.embedding.wide import TablePlan
from covjax.errors import InputError
from covjax.pooling import get_pooler
from covjax.probes import fit_ridge_path
from covjax.recipes import RecipeSettings, all_recipes, get_recipe
from covjax.standardise import standardise
from tests.conftest import ROOT

D, N = 64, 24
TRAIN = np.arange(0, N, 2)
ROWS = ("second_moment", "covariance", "sqrt_covariance", "log_covariance", "mean_outer")
ROWS += tuple(f"shuffled_{name}" for name in ROWS[1:4])
PENALTIES = (1e-4, 1e-2, 1.0)
STANDARDISE, SHUFFLE = jax.jit(standardise), jax.jit(shuffle_features)  # one program a length, not one an operation


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Sequences of fewer and of more tokens than features, with the pools of every wide recipe.

    Few lengths: `exact` shuffles every sequence, and each length is a program.
    """
    random = np.random.default_rng(0)
    mixing = random.normal(size=(D, D)) / 8 * np.geomspace(3, 0.1, D)
    arrays = [
        (random.normal(size=(t, D)) @ mixing * random.uniform(0.5, 2, D) + 1).astype(np.float32)
        for t in [*random.choice([3, 17, 39], N - 6), *random.choice([70, 89], 6)]
    ]
    tokens = ArrayTokens(arrays, token_budget=400)
    recipes = [recipe for recipe in all_recipes(RecipeSettings(ranks=())) if recipe.name in ROWS]
    folder = tmp_path_factory.mktemp("pools")
    return tokens, *fit_pools(recipes, tokens, TRAIN, 0, folder, {}), folder


def plan_of(tokens, names, **changes):
    plan = plan_kernels(names, kernels.factor_columns(tokens), D, len(TRAIN), GIB, 0, GIB)
    return dataclasses.replace(plan, **changes)


def exact(recipe, tokens, fit, row):
    """The matrix of one sequence in float64, from the tokens that the pool sees."""
    x = tokens.kept(np.array([row]))[0]
    x = np.asarray(STANDARDISE(x, np.ones(len(x), np.float32), *fit))
    if recipe.shuffled:
        x = np.asarray(SHUFFLE(x, None, jax.random.fold_in(jax.random.key(0), row)))
    x = x.astype(np.float64)
    mean = x.mean(0)
    if recipe.pooler == "mean_outer":
        return np.outer(mean, mean)
    second = x.T @ x / len(x)
    if recipe.pooler == "second_moment":
        return second
    s, v = np.linalg.eigh(second - np.outer(mean, mean))
    s, options = s.clip(0), dict(recipe.options)
    if "ridge" in options:
        s = np.sqrt(s + options["ridge"])
    if "eps" in options:
        s = np.log(s + options["eps"])
    return v * s @ v.T


@pytest.mark.long
def test_kernels_are_those_of_float64_features(setting, monkeypatch, tmp_path):
    """In one block and in three, the last of which is not full; from memory and from disk; recipe by recipe."""
    monkeypatch.setattr(tables, "WIDE", 100)
    tokens, fit, pools, _ = setting
    every = [
        plan_of(tokens, ROWS),
        plan_of(tokens, ROWS, blocks=3, on_disk=True, groups=tuple((name,) for name in ROWS)),
    ]
    made = [dict(wide.kernel_tables(pools, tokens, fit, 0, TRAIN, TablePlan(plan, None), tmp_path)) for plan in every]
    assert not list(tmp_path.iterdir())
    targets = np.random.default_rng(1).normal(size=(len(TRAIN), 2))
    for name in ROWS:
        features = np.array([exact(pools[name].recipe, tokens, fit, row).ravel() for row in range(N)])
        features -= features[TRAIN].mean(0)
        kernel = features @ features[TRAIN].T
        kernel /= np.trace(kernel[TRAIN]) / len(TRAIN)
        wanted = scores(tables.Table(kernel, 2080, is_kernel=True), targets)
        for each in made:
            table = each[name]
            assert (table.num_features, table.is_kernel, table.values.dtype) == (2080, True, np.float32)
            np.testing.assert_allclose(table.values, kernel, atol=5e-5, err_msg=name)
            np.testing.assert_allclose(scores(table, targets), wanted, atol=5e-4, err_msg=name)


def scores(table, targets):
    space = table.space(TRAIN)
    path = fit_ridge_path(space, space.coordinates(table.values[TRAIN]), targets, PENALTIES)
    return [probe.scores(table.values) for probe in path]


WITHOUT_FACTORS = ("regional_sqrt_covariance", "lagged_covariance", "gaussian", "signed_sqrt", "tangent_space")


def vector_plan(sizes, places, blocks):
    groups = tuple(VectorGroup((name,), place, blocks) for name, place in zip(sizes, places))
    return TablePlan(None, VectorPlan(groups, sizes, 0, 0, 0))


def test_kernels_of_vectors_are_those_of_their_float64_inner_products(setting, tmp_path):
    """From vectors in memory, on disk and pooled again, in blocks whose last is not full; scores as of tables."""
    tokens, _, _, _ = setting
    recipes = [recipe for recipe in all_recipes(RecipeSettings(ranks=()), D) if recipe.name in WITHOUT_FACTORS]
    fit, pools = fit_pools(recipes, tokens, TRAIN, 0, tmp_path, {})
    assert not any(kernels.has_factor(pool) for pool in pools.values())
    sizes = widths(pools, D)
    assert sizes == expected_widths(tuple(recipes), D)
    assert min(sizes.values()) >= 2080
    together = VectorGroup(tuple(sizes), "memory", 1), VectorGroup(tuple(sizes), "disk", 3)
    plans = [TablePlan(None, VectorPlan((group,), sizes, 0, 0, 0)) for group in together]
    plans.append(vector_plan(sizes, ["again"] * len(sizes), 2))
    plans.append(vector_plan(sizes, ["memory", "disk", "again", "disk", "memory"], 1))
    (tmp_path / "files").mkdir()
    every = [dict(wide.kernel_tables(pools, tokens, fit, 0, TRAIN, plan, tmp_path / "files")) for plan in plans]
    assert not list((tmp_path / "files").iterdir())
    targets = np.random.default_rng(1).normal(size=(len(TRAIN), 2))
    vectors = pool_tokens(pools, tokens, fit, 0)
    for name, table in vectors.items():
        x = table.astype(np.float64) - table[TRAIN].astype(np.float64).mean(0)
        kernel = x @ x[TRAIN].T
        kernel /= np.trace(kernel[TRAIN]) / len(TRAIN)
        plain = tables.Table(table, table.shape[1])
        wanted = scores(plain, targets)
        for each in every:
            made = each[name]
            assert (made.num_features, made.is_kernel, made.values.dtype) == (sizes[name], True, np.float32)
            np.testing.assert_allclose(made.values, kernel, atol=2e-6, err_msg=name)
            np.testing.assert_allclose(scores(made, targets), wanted, atol=1e-4, err_msg=name)


def test_nan_in_a_vector_is_named(setting, monkeypatch, tmp_path):
    tokens, fit, pools, _ = setting
    whole = wide.each_vector

    def broken(*arguments):
        for rows, vectors in whole(*arguments):
            yield rows, {name: np.where(rows[:, None] == 7, np.nan, block) for name, block in vectors.items()}

    monkeypatch.setattr(wide, "each_vector", broken)
    for place in ("memory", "disk", "again"):
        plan = vector_plan({"covariance": 2080}, [place], 2)
        with pytest.raises(InputError, match=r"recipe 'covariance': NaN or inf, first in row 7 \(counted from 0\)"):
            list(wide.kernel_tables(pools, tokens, fit, 0, TRAIN, plan, tmp_path))


@dataclasses.dataclass
class Sum:
    """A pooler with parameters of its own that is neither frozen nor a module."""

    name: str = "sum"
    permutation_invariant: bool = True

    def __call__(self, x, weights=None):
        return x.sum(0)


def test_a_pooler_that_cannot_be_hashed_is_named(setting):
    tokens, fit, pools, _ = setting
    pool = dataclasses.replace(pools["covariance"], pooler=Sum())
    with pytest.raises(InputError, match=r"recipe 'mine': its pooler cannot be hashed .*tuples for lists and arrays"):
        pool_tokens({"mine": pool}, tokens, fit, 0)


def test_few_sequences_are_pooled_at_a_time_where_arrays_on_the_way_are_large():
    """A kernel mean of 26,000 frequencies makes tokens x frequencies numbers from which it takes 52,000."""
    wide_mean = FittedPool(get_recipe("mean")[0], get_pooler("kernel_mean", frequencies=26_000, bandwidth=np.ones(())))
    counts = [batch_limit({"kernel_mean": wide_mean}, D)(tokens) for tokens in (1, 30, 300)]
    assert counts[0] == WORK // (12 * 52_000)
    assert 4 * counts[1] * 30 * 26_000 <= WORK
    assert 4 * counts[2] * 300 * 26_000 <= WORK
    assert 2 * counts[2] > WORK // (4 * 300 * 26_000) // 2
    plain = FittedPool(get_recipe("covariance")[0], get_pooler("covariance"))
    assert [batch_limit({"covariance": plain}, D)(tokens) for tokens in (1, 30)] == [WORK // (12 * 2080)] * 2


def test_a_batch_of_wide_tokens_is_bounded_and_has_the_vectors_of_the_whole_one(setting, monkeypatch):
    tokens, fit, pools, _ = setting
    chosen = {name: pools[name] for name in ("covariance", "shuffled_covariance")}
    whole = pool_tokens(chosen, tokens, fit, 0)
    given = list(tokens.walk("a"))
    assert all(part is batch for part, batch in zip(passes._parts(iter(given), None, 1), given, strict=True))
    monkeypatch.setattr(passes, "TOKENS", 4 * D * 100)
    parts = list(passes._parts(iter(given), None, 1))
    assert max(part.tokens[..., 0].size for part in parts) <= 100 < max(batch.tokens[..., 0].size for batch in given)
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(N))
    for name, vectors in pool_tokens(chosen, tokens, fit, 0).items():
        np.testing.assert_allclose(vectors, whole[name], atol=1e-6)


@pytest.mark.parametrize("only", [TRAIN, np.array([3]), np.arange(N), None], ids=["half", "one", "all", "but one"])
def test_wanted_rows_come_once_each_in_batches_that_are_full_but_for_the_last_of_a_shape(setting, only):
    tokens, fit, pools, _ = setting
    given = [set(batch.rows.tolist()) for batch in tokens.walk("c")]
    if only is None:  # then the first batch takes one of the next, which has the same shape
        only = np.setdiff1d(np.arange(N), min(given[0]))
        first = next(passes._chosen(tokens.walk("d"), only, 1)).rows
        assert [len(rows.intersection(first.tolist())) for rows in given[:2]] == [len(given[0]) - 1, 1]
    chosen = {"shuffled_covariance": pools["shuffled_covariance"]}
    batches = list(passes._chosen(tokens.walk("a"), only, 1))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == only.tolist()
    sizes = {batch.tokens.shape[1]: len(batch.tokens) for batch in tokens.walk("b")}
    partial = [batch.tokens.shape[1] for batch in batches if len(batch.rows) < sizes[batch.tokens.shape[1]]]
    assert len(partial) == len(set(partial))
    for batch in batches:
        assert not batch.weights[len(batch.rows) :].any()
        for place, row in enumerate(batch.rows):
            np.testing.assert_array_equal(
                batch.tokens[place][batch.weights[place] > 0], tokens.kept(np.array([row]))[0]
            )
    whole = pool_tokens(chosen, tokens, fit, 0)["shuffled_covariance"]
    for rows, vectors in each_vector(chosen, tokens, fit, 0, only=only):
        np.testing.assert_allclose(vectors["shuffled_covariance"], whole[rows], atol=1e-6)


def test_vectors_stay_in_memory_or_on_disk_or_are_pooled_again():
    """Whatever the limit, what is planned keeps within it, and an error's number is enough."""
    sizes = {"small": 5000, "a": 100_000, "b": 100_000, "wide": 400_000}
    n, train, used = 5000, 3500, GIB

    def places(gib, disk):
        plan = plan_vectors(sizes, n, train, gib * GIB, used, disk * GIB)
        assert plan.peak <= gib * GIB
        assert sorted(name for group in plan.groups for name in group.names) == sorted(sizes)
        for group in plan.groups:
            assert 4 * n * max(sizes[name] for name in group.names) / group.blocks < gib * GIB
        return [(group.names, group.place) for group in plan.groups]

    assert places(24, 0) == [(tuple(sizes), "memory")]
    assert places(6, 100) == [(("small", "a"), "memory"), (("b",), "memory"), (("wide",), "disk")]
    assert places(4, 4) == [(("small",), "memory"), (("a", "b"), "disk"), (("wide",), "again")]
    assert places(4, 0) == [(("small",), "memory"), (("a",), "again"), (("b",), "again"), (("wide",), "again")]
    text = str(plan_vectors(sizes, n, train, 4 * GIB, used, 4 * GIB))
    assert re.match(
        r"4 kernels of up to 400,000 numbers: small in memory; a, b in \d blocks, vectors on disk, 3.7 GiB at a time; "
        r"wide pooled again for each of \d+ blocks; \d+ passes over the tokens; memory at most [\d.]+ GiB, about ",
        text,
    )
    with pytest.raises(TooLittleMemory, match="1.5 is too little for kernels of 5,000 sequences of 400,000") as error:
        plan_vectors(sizes, n, train, 1.5 * GIB, used, 0)
    plan_vectors(sizes, n, train, error.value.needed, used, 0)


def test_wide_vectors_smaller_than_a_batch_need_no_pass_of_their_own():
    sizes = {"narrow": 4096, "small": 5120, "large": 20_000, "factored": 5120}

    def planned(sequences, train):
        return set(wide.kernel_sizes(sizes, {"narrow", "factored"}, sequences, train))

    assert planned(5000, 3500) == {"large", "factored"}
    assert planned(20_000, 3500) == {"small", "large", "factored"}
    assert planned(5000, 5120) == {"large"}  # as many training sequences as numbers: features need no kernel


@pytest.mark.long
def test_rows_are_the_same_in_a_pass_of_their_own_or_with_narrow_ones_and_made_again_where_one_is_lost(
    tmp_path, monkeypatch, rng
):
    """Small wide vectors, and components of two sizes that share an eigendecomposition."""
    arrays = [rng.normal(size=(t, 8)).astype(np.float32) for t in rng.choice([5, 9], 24)]
    ids, names = tuple(map(str, range(24))), ("y",)
    split = np.array(["train"] * 14 + ["validation"] * 5 + ["test"] * 5)
    data = Dataset("t", "regression", ids, (), rng.normal(size=(24, 1)), names, ids, split, False)
    rows = ("mean", "signed_sqrt", "lagged_covariance", "sqrt_covariance")
    rows += ("sqrt_covariance_3_components", "sqrt_covariance_5_components")
    settings = CompareConfig(data="t.csv", max_memory_gib=8)
    recipes = tuple(get_recipe(name)[-1] for name in rows)
    monkeypatch.setattr(tables, "WIDE", 20)
    walks, each = [], ArrayTokens.walk

    def walk(tokens, stage):
        walks.append(stage)
        return each(tokens, stage)

    monkeypatch.setattr(ArrayTokens, "walk", walk)

    def made(folder):
        walks.clear()
        (tmp_path / folder).mkdir(exist_ok=True)
        found = make_features(settings, data, ArrayTokens(arrays), recipes, tmp_path / folder, {})
        return {name: found[name].values for name in rows}

    together = made("together")
    assert walks == ["standardise", "pool", "factors"]
    shutil.rmtree(tmp_path / "together" / "features" / "sqrt_covariance_5_components")
    again = made("together")
    assert walks == []
    for name in rows:
        np.testing.assert_array_equal(again[name], together[name], err_msg=name)
    monkeypatch.setattr(wide, "WORK", 0)
    alone = made("alone")
    assert walks == ["standardise", "pool", "factors", "pool"]
    for name in rows:
        np.testing.assert_allclose(np.abs(alone[name]), np.abs(together[name]), atol=1e-4, err_msg=name)


@pytest.mark.long
def test_factors_are_of_the_pooled_matrix(rng):
    """FFᵀ and the pooled matrix differ by a multiple of I; more tokens than features, fewer, and masked ones."""
    for length in (5, 30):
        x, w = rng.normal(size=(length, 12)).astype(np.float32), (rng.random(length) < 0.7).astype(np.float32)
        w[0] = 1
        for name in ROWS[:5]:
            pooler = get_pooler(name)
            factor = np.asarray(pooler.factor(x, w), np.float64)
            assert factor.shape[1] <= min(length, 13)
            upper = np.asarray(pooler(x, w), np.float64)
            i, j = np.triu_indices(12)
            gap = (factor @ factor.T)[i, j] * np.where(i == j, 1, np.sqrt(2)) - upper
            np.testing.assert_allclose(gap[i != j], 0, atol=2e-5, err_msg=name)
            np.testing.assert_allclose(gap[i == j], gap[0], atol=2e-5, err_msg=name)
    assert get_pooler("correlation").from_factor is None


def test_the_primal_probe_scores_as_the_dual_one(setting, monkeypatch, tmp_path, rng):
    monkeypatch.setattr(tables, "WIDE", 100)
    tokens, _, _, _ = setting
    for name in ("log_covariance", "mean+sqrt_covariance"):
        fitted = fit_recipe(get_recipe(name), tokens, TRAIN, 0, tmp_path, {})
        vectors = fitted.transform(tokens)
        centred = vectors - vectors[TRAIN].mean(0)
        square = np.square(centred[TRAIN]).sum(1).mean()
        assert square == pytest.approx(fitted.sums(tokens, TRAIN, np.zeros((len(TRAIN), 0))).square, rel=1e-5)
        table = tables.Table((centred @ centred[TRAIN].T / square).astype(np.float32), 2080, is_kernel=True)
        space = table.space(TRAIN)
        targets = rng.normal(size=(len(TRAIN), 2))
        probe = fit_ridge_path(space, space.coordinates(table.values[TRAIN]), targets, [1e-2])[0]
        primal = centred_probe(probe, fitted.sums(tokens, TRAIN, probe.alpha))
        np.testing.assert_allclose(primal.scores(vectors), probe.scores(table.values), atol=1e-4, err_msg=name)


def test_a_row_beside_another_is_fitted_from_their_tables(setting, monkeypatch, tmp_path):
    """The tables that a comparison has made are not pooled again; the kernel of a wide one does not help."""
    tokens, fit = setting[:2]
    recipes = get_recipe("mean+log_covariance")
    expected = fit_recipe(recipes, tokens, TRAIN, 0, tmp_path / "a", {})
    vectors = pool_tokens(expected.pools, tokens, fit, 0)
    made = {name: tables.Table(values, values.shape[1]) for name, values in vectors.items()}
    kernel = tables.Table(np.zeros((N, len(TRAIN)), np.float32), 2080, is_kernel=True)
    pooled, whole = [], each_vector

    def each(pools, *rest, **more):
        pooled.append(sorted(pools))
        return whole(pools, *rest, **more)

    monkeypatch.setattr("covjax.embedding.fitted.each_vector", each)
    for given, missing in ((made, []), ({**made, "log_covariance": kernel}, [["log_covariance"]])):
        pooled.clear()
        fitted = fit_recipe(recipes, tokens, TRAIN, 0, tmp_path / "b", {}, tables=given)
        assert pooled == missing
        for name, (centre, scale) in expected.blocks.items():
            np.testing.assert_allclose(fitted.blocks[name][0], centre, atol=1e-6)
            np.testing.assert_allclose(fitted.blocks[name][1], scale, rtol=1e-6)


def test_components_come_from_the_kernel(setting, monkeypatch, tmp_path):
    tokens, fit, pools, _ = setting
    vectors = pool_tokens({"log_covariance": pools["log_covariance"]}, tokens, fit, 0)["log_covariance"]
    expected = next(tables.principal_components(tables.make_table(vectors, TRAIN), [4], TRAIN)).values
    monkeypatch.setattr(tables, "WIDE", 100)
    fitted = fit_recipe(get_recipe("log_covariance_4_components"), tokens, TRAIN, 0, tmp_path, {})
    np.testing.assert_allclose(np.abs(fitted.transform(tokens)), np.abs(expected), atol=2e-4)


def test_the_plan_keeps_the_limit_or_says_what_is_needed():
    columns = np.full(5000, 250.0)
    names = [f"row{i}" for i in range(8)]
    peaks = []
    for gib in (40, 16, 8, 6):
        plan = plan_kernels(names, columns, 1280, 3500, gib * GIB, GIB, 100 * GIB)
        assert plan.peak <= gib * GIB
        assert [name for group in plan.groups for name in group] == names
        peaks.append((plan.on_disk, len(plan.groups), plan.blocks))
    assert peaks == sorted(peaks)
    assert plan_kernels(names, columns, 1280, 3500, 4 * GIB, GIB, 100 * GIB).on_disk
    with pytest.raises(InputError, match=r"max_memory_gib: 1\.5 is too little for kernels of 5,000 ") as error:
        plan_kernels(names, columns, 1280, 3500, 1.5 * GIB, GIB, 100 * GIB)
    needed = float(re.search(r"features; ([\d.]+) is needed", str(error.value))[1])
    plan_kernels(names, columns, 1280, 3500, needed * GIB, GIB, 100 * GIB)
    # Tokens may take much of the limit: where no fifth of the rest can stay free there is a plan, and it says so.
    small = plan_kernels(names, np.full(1000, 250.0), 320, 700, 4 * GIB, 3.35 * GIB, 100 * GIB)
    assert 4 * GIB < small.peak < 5 * GIB
    for used in (GIB, 1.6 * GIB):
        with pytest.raises(InputError, match="too little for the factors") as error:
            plan_kernels(names, columns, 1280, 3500, 4 * GIB, used, GIB / 256)
        memory, disk = map(float, re.findall(r"([\d.]+) (?:GiB )?of (?:memory|disk)", str(error.value).split(";")[1]))
        assert not plan_kernels(names, columns, 1280, 3500, memory * GIB, used, 0).on_disk
        assert plan_kernels(names, columns, 1280, 3500, 4 * GIB, used, disk * GIB).on_disk


def test_nan_in_a_sequence_is_named(setting, monkeypatch, tmp_path):
    tokens, fit, pools, _ = setting
    whole = kernels._fixed_point
    broken = lambda pool, x, w: whole(pool, jnp.where(jnp.sum(w) > 60, jnp.nan, x), w)
    monkeypatch.setattr(kernels, "_fixed_point", broken)
    plan = plan_of(tokens, ("log_covariance",))
    with pytest.raises(InputError, match=r"recipe 'log_covariance': NaN or inf, first in row \d+ \(counted from 0\)"):
        list(kernels.factor_kernels(pools, tokens, fit, 0, TRAIN, plan, tmp_path))


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from covjax.activations import ArrayTokens
from covjax.embedding.wide import kernel_tables, plan_tables
from covjax.embedding.pools import fit_pools
from covjax.recipes import RecipeSettings, all_recipes
random = np.random.default_rng(0)
tokens = ArrayTokens([random.standard_normal((30, 640), np.float32) for _ in range(400)])
train = np.arange(280)
names = sys.argv[2].split(",")
recipes = [each for each in all_recipes(RecipeSettings(ranks=())) if each.name in names]
fit, pools = fit_pools(recipes, tokens, train, 0, Path(sys.argv[1]), {})
plan = plan_tables(pools, tokens, len(train), Path(sys.argv[1]), 1.5)
tables = dict(kernel_tables(pools, tokens, fit, 0, train, plan, Path(sys.argv[1])))
print(len(tables), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "plan"),
    [
        ("covariance,log_covariance,shuffled_log_covariance", "3 kernels of 205,120 features, 2 x 2 blocks of 320"),
        (
            "lagged_covariance,signed_sqrt,gaussian",
            r"lagged_covariance, gaussian, signed_sqrt in \d blocks, .* on disk",
        ),
    ],
)
def test_a_run_keeps_within_its_memory(tmp_path, names, plan):
    """Vectors of all three recipes would be 0.9 or 1.2 GiB, and twice that while tables are made of them."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path), names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(f"plan: .*{plan}", done.stdout)
    tables, gib = map(float, done.stdout.splitlines()[-1].split())
    assert tables == 3
    assert gib <= 1.5
