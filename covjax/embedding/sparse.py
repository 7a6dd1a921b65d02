"""A sparse autoencoder of the training sequences' tokens, and the pools of its latents that are rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from covjax import Pooler, get_pooler
from covjax.activations import ArrayTokens
from covjax.activations.standardiser import Fit
from covjax.autoencoders.arrays import agree_module
from covjax.autoencoders.sparse.cooccurrence import cooccurrence, frequent_pairs, stack
from covjax.data.activations import HeldActivations
from covjax.distributed import agree, is_first
from covjax.notes import note
from covjax.recipes.base import SparsePooled
from covjax.standardise import standardise
from covjax.training.autoencoder import train_autoencoder
from covjax.training.autoencoder_config import AutoencoderConfig

LOOKED_AT = 500  # sequences in which the frequent pairs are counted: a matter of seconds


def sparse_pools(
    tokens: ArrayTokens,
    train: np.ndarray,
    recipes: Sequence[SparsePooled],
    fit: Fit,
    identity: dict[str, Any],
    seed: int,
    folder: Path,
) -> list[Pooler]:
    """The poolers of recipes on one autoencoder, which is trained without labels.

    The training is `covjax.training.autoencoder`'s, on the training sequences, a tenth of them held out for its own
    figures; a killed one goes on from its checkpoint in `folder`. Co-occurrence is of the pairs that are most frequent
    in some of these.
    """
    kept = tokens.kept(train)
    whole = np.concatenate(kept)  # one shape: eager operations are compiled for every length anew
    lengths = np.array([len(x) for x in kept])
    held = HeldActivations(np.asarray(standardise(whole, np.ones(len(whole)), *fit)), lengths, identity)
    options, steps = sparse_options(recipes[0]), dict(recipes[0].autoencoder)["steps"]
    # The same for 1, 2, 4, 8 devices, so that a killed training goes on with another number of them; others round up.
    batch = 1 << (min(2048, max(int(lengths.sum()) // 2, 1)).bit_length() - 1)
    batch = -(-batch // jax.device_count()) * jax.device_count()
    config = AutoencoderConfig(
        output=str(folder),
        data="the comparison's training tokens",
        encoder=tokens.name,
        kind="topk",
        options=options,
        steps=steps,
        batch=batch,
        warmup=min(100, steps),
        seed=seed,
        evaluate_every=steps,
        save_every=250,
    )
    result = train_autoencoder(config, held)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in result.held_out.items())
    note(f"sparse autoencoder: {shown}")
    agree_module(result.model)
    poolers = []
    for recipe in recipes:
        given: dict[str, Any] = dict(recipe.options)
        if "pairs" in given:
            given["pairs"] = _pairs(result.model, held, options["latents"], int(given["pairs"]))
        poolers.append(get_pooler(recipe.pooler, autoencoder=result.model, **given))
    return poolers


def sparse_options(recipe: SparsePooled) -> dict[str, Any]:
    """What `make_autoencoder("topk", …)` is given for a recipe."""
    options = {name: value for name, value in recipe.autoencoder if name != "steps"}
    return options | {"aux_k": min(64, options["latents"])}


def _pairs(model: Any, held: HeldActivations, latents: int, most: int) -> Int[np.ndarray, "pairs 2"]:
    """The most frequent pairs in at most `LOOKED_AT` sequences, spread evenly; those that process 0 finds, in all."""
    pairs = _find_pairs(model, held, latents, most) if is_first() else np.zeros((0, 2))
    count = int(agree(np.int64(len(pairs))))
    return agree(np.asarray(pairs, np.int32) if is_first() else np.zeros((count, 2), np.int32))


def _find_pairs(model: Any, held: HeldActivations, latents: int, most: int) -> Int[np.ndarray, "pairs 2"]:
    count = len(held.lengths)
    arrays = held.read(range(0, count, -(-count // LOOKED_AT)))
    codes = jax.jit(model.codes)
    edge = max(map(len, arrays))
    moments = []
    for x in arrays:  # one compiled shape: padding enters neither statistic
        values, indices = codes(np.pad(x, ((0, edge - len(x)), (0, 0))))
        moments.append(cooccurrence(values[: len(x)], indices[: len(x)], latents))
    stacked = stack(moments, latents)
    return frequent_pairs(stacked, min(most, len(np.unique(stacked.indices))), latents)
