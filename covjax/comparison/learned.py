"""Pools with parameters, trained on the task and then frozen: their features are probed like those of any other row."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from covjax import get_pooler
from covjax.autoencoders.arrays import agree_module
from covjax.comparison.config import CompareConfig
from covjax.comparison.rows import Row
from covjax.comparison.tokens import Fit, TokenSet
from covjax.data import Dataset
from covjax.distributed import is_first, wait
from covjax.notes import note
from covjax.probes.minibatch import Budget
from covjax.probes.tokens import TokenBatch, fit_token_probes
from covjax.standardise import standardise

_HIGHEST = jax.lax.Precision.HIGHEST


def train_pools(
    config: CompareConfig,
    data: Dataset,
    tokens: TokenSet,
    rows: Sequence[Row],
    fit: Fit,
    basis: np.ndarray | None,
    folder: Path,
) -> dict[str, Callable[[Array, Array], Array]]:
    """The pools of trained rows that differ in their seed only: label → (standardised tokens, weights) → features.

    Pool and linear readout are trained with AdamW, the same number of steps of the same batches for every pool; the
    validation loss chooses step, learning rate and weight decay, of which the grid is the same too. A killed fit goes
    on from its checkpoint in `folder`. In a job of several processes, which call this together, process 0 trains.
    """
    first = rows[0]
    train, validation = data.rows("train"), data.rows("validation")
    width, options = first.width or tokens.features, dict(first.options)
    pools = [cast(nnx.Module, get_pooler(row.pooler, features=width, seed=row.seed, **options)) for row in rows]

    def walk(wanted: np.ndarray) -> Iterator[TokenBatch]:
        for batch in tokens.mixed(wanted, config.token_budget // 4):
            x = np.asarray(standardise(batch.tokens, batch.weights, *fit))
            yield batch.rows, x if basis is None else x @ basis, batch.weights

    looks = max(1, config.steps // 8)
    fits = []
    for rate in config.learning_rates if is_first() else ():
        note(f"train: {first.label}, {len(rows)} seed(s), {config.steps} steps at rate {rate:g}")
        budget = Budget(config.steps, rate, evaluate_every=looks, patience=8, shuffle=8, seed=config.seed)
        where = folder / f"rate-{rate:g}"
        fits.append(
            fit_token_probes(
                pools, walk, data.targets, train, validation, data.task, config.weight_decays, budget, checkpoint=where
            )
        )
    if is_first():
        pools = [max(probes, key=lambda probe: probe.validation.max()).pool for probes in zip(*fits)]
    wait()  # as long as the training takes
    for pool in pools:
        agree_module(pool)
    return {row.label: _after(basis, cast(Callable, pool)) for row, pool in zip(rows, pools)}


def _after(basis: np.ndarray | None, pool: Callable) -> Callable[[Array, Array], Array]:
    return pool if basis is None else lambda x, w: pool(jnp.matmul(x, basis, precision=_HIGHEST), w)
