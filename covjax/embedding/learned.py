"""Pools with parameters, trained on the task and then frozen: their features are probed like those of any other row."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from flax import nnx

from covjax import get_pooler
from covjax.activations import ArrayTokens
from covjax.activations.standardiser import Fit
from covjax.autoencoders.arrays import agree_module
from covjax.data import Dataset
from covjax.distributed import is_first, wait
from covjax.notes import note
from covjax.probes.minibatch import Budget
from covjax.probes.tokens import TokenBatch, fit_token_probes
from covjax.recipes.base import Trained
from covjax.standardise import standardise


def train_pools(
    data: Dataset,
    tokens: ArrayTokens,
    recipes: Sequence[Trained],
    fit: Fit,
    basis: np.ndarray | None,
    seed: int,
    folder: Path,
) -> list[nnx.Module]:
    """The trained pools of recipes that differ in their seed only.

    Pool and linear readout are trained with AdamW, the same number of steps of the same batches for every pool; the
    validation loss chooses step, learning rate and weight decay, of which the grid is the same too. A killed fit goes
    on from its checkpoint in `folder`. In a job of several processes, which call this together, process 0 trains.
    """
    first, training = recipes[0], dict(recipes[0].training)
    train, validation = data.rows("train"), data.rows("validation")
    width, options, steps = first.width or tokens.features, dict(first.options), training["steps"]
    pools = [cast(nnx.Module, get_pooler(each.pooler, features=width, seed=each.seed, **options)) for each in recipes]

    def walk(wanted: np.ndarray) -> Iterator[TokenBatch]:
        for batch in tokens.mixed(wanted, tokens.token_budget // 4):
            x = np.asarray(standardise(batch.tokens, batch.weights, *fit))
            yield batch.rows, x if basis is None else x @ basis, batch.weights

    decays = training["weight_decays"]
    looks = max(1, steps // 8)
    fits = []
    for rate in training["learning_rates"] if is_first() else ():
        note(f"train: {first.name}, {len(recipes)} seed(s), {steps} steps at rate {rate:g}")
        budget = Budget(steps, rate, evaluate_every=looks, patience=8, shuffle=8, seed=seed)
        where = folder / f"rate-{rate:g}"
        fits.append(
            fit_token_probes(
                pools,
                walk,
                data.targets,
                train,
                validation,
                data.task,
                decays,
                budget,
                checkpoint=where,
            )
        )
    if is_first():
        pools = [max(probes, key=lambda probe: probe.validation.max()).pool for probes in zip(*fits)]
    wait()  # as long as the training takes
    for pool in pools:
        agree_module(pool)
    return pools
