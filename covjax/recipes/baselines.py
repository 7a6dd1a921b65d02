"""Recipes of first order: the mean, which every other is compared with, and single statistics and tokens."""

from collections.abc import Iterator

from covjax.recipes.base import BASELINE, Pooled, Recipe, RecipeSettings, SpecialToken, recipes


@recipes
def baselines(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """The mean first: it is the reference."""
    titles = {"mean": "mean", "mean_std": "mean+std", "max": "max", "first": "first", "cls": "CLS", "last": "last"}
    for name, title in titles.items():
        if name == "cls":
            yield SpecialToken(name=name, title=title, role=BASELINE)
        else:
            yield Pooled(name=name, title=title, role=BASELINE, pooler=name)
