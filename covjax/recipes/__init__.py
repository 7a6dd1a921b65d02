"""Recipes by name: each turns tokens into one vector, is a row of a comparison, and can be given to `Embedder`."""

import dataclasses
import importlib
import pkgutil
import re

# In the order of a report's rows; a new file in this folder is found by itself and stands after these.
from covjax.recipes import standard  # noqa: F401
from covjax.recipes.base import (
    BASES,
    TRAINABLE,
    Recipe,
    RecipeSettings,
    all_recipes,
    parts_of,
    recipes,
    unknown_recipe,
    with_parts,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Recipe", "RecipeSettings", "all_recipes", "get_recipe", "parts_of", "recipe_names", "recipes"]


def recipe_names() -> tuple[str, ...]:
    """Names of every recipe with the default settings, in the order of a report.

    The rank or number of components is part of a name, and other numbers work too: `pca_covariance_16` has rank 16,
    `log_covariance_512_components` keeps 512 components.
    """
    return tuple(recipe.name for recipe in all_recipes(_everything(RecipeSettings(seeds=(0,)))))


def get_recipe(name: str, settings: RecipeSettings | None = None) -> tuple[Recipe, ...]:
    """Return the recipe of that name, preceded by the recipes that it is made of.

    A rank or number of components in the name need not be among those of `settings`.

    Raises InputError for an unknown name; the message suggests the nearest ones.
    """
    settings = _everything(settings or RecipeSettings())
    if match := re.fullmatch(r"(.+?)_([1-9]\d*)(_components)?", str(name)):
        number = (int(match[2]),)
        if match[3]:
            settings = dataclasses.replace(settings, components=number)
        else:
            settings = dataclasses.replace(settings, ranks=number)
    every = {recipe.name: recipe for recipe in all_recipes(settings)}
    if name not in every:
        raise unknown_recipe("recipe", name, all_recipes(_everything(RecipeSettings(seeds=(0,)))))
    return with_parts(str(name), every)


def _everything(settings: RecipeSettings) -> RecipeSettings:
    return dataclasses.replace(
        settings, bases=tuple(BASES), trained=TRAINABLE, sae_latents=settings.sae_latents or 1024
    )
