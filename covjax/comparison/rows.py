"""Which recipes a comparison makes."""

from covjax.comparison.config import CompareConfig
from covjax.errors import InputError
from covjax.recipes import Recipe, all_recipes, parts_of
from covjax.recipes.base import SECOND_ORDER, SpecialToken, Trained, unknown_recipe


def choose_recipes(config: CompareConfig, features: int, has_special: bool) -> tuple[Recipe, ...]:
    """The recipes of `config.rows`, or all, for an encoder of `features` numbers a token, in the order of a report.

    `has_special`: whether the model has a special token before the sequence.

    Raises InputError for a rank that the encoder does not have, an unknown name in `config.rows`, and one whose parts
    are not there.
    """
    every = all_recipes(config, features)
    every = tuple(recipe for recipe in every if has_special or not isinstance(recipe, SpecialToken))
    if not config.rows:
        return every
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


def _row(recipe: Recipe) -> str:
    return (recipe.replica_of if isinstance(recipe, Trained) else "") or recipe.name
