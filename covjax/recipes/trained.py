"""Recipes with parameters that are trained on the task's labels, then frozen and probed like the rest."""

import dataclasses
from collections.abc import Iterator

from covjax.recipes.base import BASELINE, SECOND_ORDER, Recipe, RecipeSettings, Trained, recipes

LIGHT_WIDTH = 64  # a convolution over more channels costs more than all other rows together


@recipes
def trained(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Attention, light attention and a learned projection, each with every seed."""
    training = (
        ("steps", settings.steps),
        ("learning_rates", settings.learning_rates),
        ("weight_decays", settings.weight_decays),
    )
    light = None if features is not None and features <= LIGHT_WIDTH else LIGHT_WIDTH
    rank = 32 if features is None else min(32, features)
    learned = {
        "attention": ("attention", BASELINE, (("heads", 1),), None),
        "light_attention": ("light attention", BASELINE, (("kernel_size", 9),), light),
        "projected": ("projected (learned)", SECOND_ORDER, (("rank", rank),), None),
    }
    for name in settings.trained:
        title, role, options, width = learned[name]
        first, *others = settings.seeds
        recipe = Trained(
            name=name,
            title=title,
            role=role,
            pooler=name,
            options=options,
            training=training,
            seed=first,
            width=width,
        )
        yield recipe
        for seed in others:
            yield dataclasses.replace(
                recipe, name=f"{name}_seed_{seed}", title=f"{title}, seed {seed}", seed=seed, replica_of=name
            )
