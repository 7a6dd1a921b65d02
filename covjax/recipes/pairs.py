"""Recipes for pairs of sequences, each pooled by itself: sum, absolute difference and product of both pools."""

import dataclasses
from collections.abc import Iterable

from covjax.recipes.base import Components, Composition, Pooled, Recipe, SideBySide


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairPooled(Pooled):
    """`Pooled` of each sequence of a pair: p + q, |p − q| and p·q side by side, the same in either order."""


def pair_recipes(recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    """The recipes turned into recipes for pairs; those that fit something on tokens are left out."""
    out: list[Recipe] = []
    for recipe in recipes:
        if type(recipe) is Pooled:
            fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
            out.append(PairPooled(**fields))
        elif isinstance(recipe, SideBySide | Components | Composition):
            out.append(recipe)
    return tuple(out)
