"""The rows that every comparison has, for encoders of different width."""

import dataclasses

import pytest

from covjax import InputError, get_pooler
from covjax.comparison.config import SMALL_ROWS, CompareConfig, choose_recipes, small_note
from covjax.recipes import all_recipes, get_recipe, parts_of, recipe_names
from covjax.recipes.base import Pooled, Trained
from covjax.recipes.standard import matched_rank

ALWAYS = {"mean", "mean_std", "max", "first", "last", "attention", "light_attention", "composition"}
CONTROLS = {
    "mean_outer",
    "mean+mean_outer",
    "shuffled_covariance",
    "shuffled_sqrt_covariance",
    "shuffled_log_covariance",
}


def test_matched_rank():
    assert [matched_rank(d) for d in (1, 2, 3, 320, 384)] == [1, 1, 2, 24, 27]
    for d in range(1, 400):
        r = matched_rank(d)
        assert r * (r + 1) // 2 <= d < (r + 1) * (r + 2) // 2


@pytest.mark.parametrize(("features", "has_special"), [(32, False), (384, True)])
def test_choose_recipes(features, has_special):
    rows = choose_recipes(CompareConfig(), features, has_special)
    labels = [row.name for row in rows]
    assert labels[0] == "mean"  # the reference of every difference
    assert set(labels) >= ALWAYS | CONTROLS
    assert ("cls" in labels) == has_special
    assert f"pca_sqrt_covariance_{matched_rank(features)}" in labels
    assert len(set(labels)) == len(labels)
    assert {part for row in rows for part in parts_of(row)} <= set(labels)
    assert ("sqrt_covariance_1024_components" in labels) == (features > 90)
    replicas = [row for row in rows if getattr(row, "replica_of", "")]
    assert len(replicas) == 6  # three pools, two further seeds each
    for row in rows:
        if isinstance(row, Pooled) and not row.rank:
            trained = isinstance(row, Trained)
            options = {"features": row.width or features, "seed": row.seed} if trained else {}
            get_pooler(row.pooler, **dict(row.options), **options)


@pytest.mark.parametrize("d", [8, 31, 64, 320])
def test_matched_rivals_are_as_wide_as_a_covariance_to_within_one_unit(d):
    rows = {row.name: row for row in all_recipes(CompareConfig(ranks=(2,)), d) if row.name.endswith("_matched")}
    options = {name: dict(row.options) | dict(getattr(row, "fitting", ())) for name, row in rows.items()}
    widths = {
        "sliced_wasserstein_matched": (options["sliced_wasserstein_matched"]["slices"] * 16, 16),
        "kernel_mean_matched": (2 * options["kernel_mean_matched"]["frequencies"], 2),
        "vlad_matched": (options["vlad_matched"]["count"] * d, d),
        "fisher_vector_matched": (options["fisher_vector_matched"]["count"] * 2 * d, 2 * d),
    }
    assert widths.keys() == rows.keys()
    for width, unit in widths.values():
        assert d * (d + 1) // 2 - unit < width <= d * (d + 1) // 2


def test_a_small_test_set_gets_few_rows_unless_more_are_asked_for():
    names = lambda config, test: {row.name for row in choose_recipes(config, 32, False, test)}
    every = names(CompareConfig(), None)
    optional = {recipe.name for recipe in all_recipes(CompareConfig(), 32) if recipe.optional}
    assert {"regional_mean", "power_means"} <= every
    assert {"tangent_space", "vlad", "lagged_covariance"} <= optional
    assert not every & optional
    assert names(CompareConfig(rows=("mean", "vlad", "tangent_space")), 5) == {"mean", "vlad", "tangent_space"}
    assert names(CompareConfig(), 199) == set(SMALL_ROWS)
    assert len(SMALL_ROWS) <= 10
    assert names(CompareConfig(), 200) == names(CompareConfig(rows=("all",)), 5) == every
    assert names(CompareConfig(rows=("mean", "covariance")), 5) == {"mean", "covariance"}
    assert "sae_mean" in names(CompareConfig(sae_latents=64), 5)
    assert "random_covariance_8" in names(CompareConfig(bases=("random",)), 5)
    assert names(CompareConfig(eps=0.1), 5) == set(SMALL_ROWS)
    for row in choose_recipes(CompareConfig(), 32, False, 5):
        assert set(parts_of(row)) <= set(SMALL_ROWS)


def test_few_rows_are_said_with_the_option_that_makes_all():
    assert small_note(CompareConfig(), 10, 40) == (
        "40 test sequences, fewer than 200: 10 rows are compared; --rows all compares every one"
    )
    for config, test in ((CompareConfig(), 200), (CompareConfig(rows=("all",)), 40), (CompareConfig(ranks=(2,)), 40)):
        assert small_note(config, 10, test) == ""


def test_a_rank_beyond_the_features_is_named():
    with pytest.raises(InputError, match="ranks: 33 is more than the encoder's 32 features"):
        choose_recipes(dataclasses.replace(CompareConfig(), ranks=(4, 33)), 32, False)


def test_rows_chooses_by_label_and_keeps_the_order():
    config = CompareConfig(rows=("covariance", "mean", "attention"), sae_latents=64)
    rows = choose_recipes(config, 32, False)
    assert [row.name for row in rows] == [
        "mean",
        "attention",
        "attention_seed_1",
        "attention_seed_2",
        "covariance",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("mean", "covarianc"), "rows: 'covarianc' is not one of the recipes; did you mean covariance"),
        (("mean", "mean+sqrt_covariance"), r"rows: 'mean\+sqrt_covariance' needs 'sqrt_covariance' too"),
        (("mean", "max"), "rows: mean, max has no second-order recipe"),
    ],
)
def test_rows_that_cannot_be_made_are_named(rows, message):
    with pytest.raises(InputError, match=message):
        choose_recipes(CompareConfig(rows=rows), 32, False)


def test_a_trained_pool_that_rows_names_is_trained():
    config = CompareConfig(rows=("mean", "covariance", "attention_4_queries"), trained=(), seeds=(0, 3))
    names = [recipe.name for recipe in choose_recipes(config, 32, False)]
    assert names == ["mean", "attention_4_queries", "attention_4_queries_seed_3", "covariance"]


def test_bases_and_a_sparse_autoencoder_add_their_rows():
    config = CompareConfig(bases=("pca", "tucker", "random"), ranks=(4,), sae_latents=64, sae_k=4)
    rows = {row.name: row for row in choose_recipes(config, 32, False)}
    assert rows["tucker_sqrt_covariance_4"].basis == "tucker"
    assert rows["random_covariance_4"].basis == "random"
    assert dict(rows["sae_mean"].autoencoder) == {"latents": 64, "k": 4, "steps": config.sae_steps}
    assert rows["sae_cooccurrence"].autoencoder == rows["sae_mean"].autoencoder  # one autoencoder serves all its rows


def test_every_name_is_ascii_and_gives_its_recipe():
    for name in recipe_names():
        assert name.isascii()
        assert not set(name) & set(" ,;/")
        *parts, recipe = get_recipe(name)
        assert recipe.name == name
        direct = [part for part in parts if part.name in parts_of(recipe)]
        assert tuple(part.name for part in direct) == parts_of(recipe)
        assert {part.name for part in parts} == {*parts_of(recipe), *(p for part in direct for p in parts_of(part))}
    assert get_recipe("pca_covariance_7")[-1].rank == 7
    assert get_recipe("log_covariance_12_components")[-1].count == 12
    with pytest.raises(InputError, match="did you mean log_covariance"):
        get_recipe("log_covarianze")


def test_of_the_default_ranks_those_beyond_the_features_are_left_out():
    names = {recipe.name for recipe in choose_recipes(CompareConfig(rows=("all",), bases=("pca",)), 9, False)}
    assert {"pca_covariance_4", "pca_covariance_8"} <= names
    assert not {"pca_covariance_16", "pca_covariance_32"} & names
