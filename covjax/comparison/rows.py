"""Which recipes a comparison makes."""

import dataclasses

from covjax.comparison.config import ALL, CompareConfig
from covjax.errors import InputError
from covjax.recipes import Recipe, RecipeSettings, all_recipes, parts_of
from covjax.recipes.base import SECOND_ORDER, SpecialToken, Trained, unknown_recipe

FEW_TEST = 200  # test sequences; with fewer, intervals are too wide to tell many rows apart
SMALL_ROWS = (
    *("mean", "mean_std", "max", "covariance", "sqrt_covariance", "log_covariance"),
    *("mean_outer", "mean+mean_outer", "shuffled_log_covariance", "composition"),
)
ROWLESS = ("eps", "ridge", "composition_k")  # settings that change numbers of rows, but not which there are


def choose_recipes(
    config: CompareConfig, features: int, has_special: bool, test: int | None = None
) -> tuple[Recipe, ...]:
    """The recipes of `config.rows` for an encoder of `features` numbers a token, in the order of a report.

    Where `config.rows` is empty: all, or `SMALL_ROWS` with fewer than `FEW_TEST` test sequences (`test`) and no setting
    that asks for rows. `has_special`: whether the model has a special token before the sequence.

    Raises InputError for a rank that the encoder does not have, an unknown name in `config.rows`, and one whose parts
    are not there.
    """
    every = all_recipes(config, features)
    every = tuple(recipe for recipe in every if has_special or not isinstance(recipe, SpecialToken))
    if config.rows == ALL or (not config.rows and not _is_small(config, test)):
        return every
    if not config.rows:
        return tuple(recipe for recipe in every if recipe.name in SMALL_ROWS)
    by_name = {recipe.name: recipe for recipe in every}
    for name in config.rows:
        if name not in by_name:
            raise unknown_recipe("rows", name, every)
        if absent := [part for part in parts_of(by_name[name]) if part not in config.rows]:
            raise InputError(f"rows: {name!r} needs {absent[0]!r} too")
    chosen = tuple(recipe for recipe in every if _row(recipe) in config.rows)
    if not any(recipe.role == SECOND_ORDER for recipe in chosen):
        raise InputError(f"rows: {', '.join(config.rows)} has no second-order recipe to compare with mean")
    return chosen


def small_note(config: CompareConfig, rows: int, test: int) -> str:
    """What to tell a user whose comparison has few rows for want of test sequences; nothing for any other."""
    if config.rows or not _is_small(config, test):
        return ""
    return f"{test} test sequences, fewer than {FEW_TEST}: {rows} rows are compared; --rows all makes every one"


def _is_small(config: CompareConfig, test: int | None) -> bool:
    settings = [field for field in dataclasses.fields(RecipeSettings) if field.name not in ROWLESS]
    asked = any(getattr(config, field.name) != field.default for field in settings)
    return test is not None and test < FEW_TEST and not asked


def _row(recipe: Recipe) -> str:
    return (recipe.replica_of if isinstance(recipe, Trained) else "") or recipe.name
