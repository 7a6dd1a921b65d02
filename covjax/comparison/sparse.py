"""A sparse autoencoder of the training sequences' tokens, and the pools of its latents that are rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from covjax import get_pooler
from covjax.autoencoders.arrays import agree_module
from covjax.autoencoders.sparse.cooccurrence import cooccurrence, frequent_pairs, stack
from covjax.comparison.rows import Row
from covjax.comparison.tokens import Fit, TokenSet
from covjax.data.activations import HeldActivations
from covjax.distributed import agree, is_first
from covjax.notes import note
from covjax.standardise import standardise
from covjax.training.autoencoder import train_autoencoder
from covjax.training.autoencoder_config import AutoencoderConfig

LOOKED_AT = 500  # sequences in which the frequent pairs are counted: a matter of seconds


def sparse_pools(
    tokens: TokenSet,
    train: np.ndarray,
    rows: list[Row],
    fit: Fit,
    identity: dict[str, Any],
    seed: int,
    folder: Path,
) -> dict[str, Callable[[Array, Array], Array]]:
    """Label → (standardised tokens, weights) → features, for rows of one autoencoder: trained without labels.

    The training is `covjax.training.autoencoder`'s, on the training sequences, a tenth of them held out for its own
    figures; a killed one goes on from its checkpoint in `folder`. Co-occurrence is of the pairs most
    frequent in some of these.
    """
    first = rows[0]
    kept = tokens.kept(train)
    whole = np.concatenate(kept)  # one shape: eager operations are compiled for every length anew
    lengths = np.array([len(x) for x in kept])
    held = HeldActivations(np.asarray(standardise(whole, np.ones(len(whole)), *fit)), lengths, identity)
    options = dict(first.sae)
    steps = options.pop("steps")
    # The same for 1, 2, 4, 8 devices, so that a killed training goes on with another number of them; others round up.
    batch = 1 << (min(2048, max(int(lengths.sum()) // 2, 1)).bit_length() - 1)
    batch = -(-batch // jax.device_count()) * jax.device_count()
    config = AutoencoderConfig(
        output=str(folder),
        data="the comparison's training tokens",
        encoder=tokens.encoder.name,
        kind="topk",
        options=options | {"aux_k": min(64, options["latents"])},
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
    pools: dict[str, Callable[[Array, Array], Array]] = {}
    for row in rows:
        given: dict[str, Any] = dict(row.options)
        if "pairs" in given:
            given["pairs"] = _pairs(result.model, held, options["latents"], int(given["pairs"]))
        pools[row.label] = get_pooler(row.pooler, autoencoder=result.model, **given)
    return pools


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
