"""Recipes made of others: principal components of wide matrices, and a matrix beside the mean."""

from collections.abc import Iterator

from covjax.recipes.base import SECOND_ORDER, Components, Recipe, RecipeSettings, SideBySide, recipes
from covjax.recipes.second_order import TITLES

WIDE = 4096  # vectors with more numbers also come as principal components


@recipes
def components(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Principal components of √Σ and log(Σ+εI) where these are wide."""
    if features is not None and features * (features + 1) // 2 <= WIDE:
        return
    for name, title in TITLES.items():
        for count in settings.components:
            yield Components(
                name=f"{name}_{count}_components",
                title=f"{title}, {count} components",
                role=SECOND_ORDER,
                part=name,
                count=count,
            )


@recipes
def beside_the_mean(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """The mean and a whole matrix side by side."""
    for name, title in TITLES.items():
        yield SideBySide(name=f"mean+{name}", title=f"mean + {title}", role=SECOND_ORDER, parts=("mean", name))
