"""Pools with parameters, trained on the task and then frozen: their features are probed like those of any other row."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from covjax import get_pooler
from covjax.data import Dataset
from covjax.probes.minibatch import Budget
from covjax.probes.tokens import TokenBatch, fit_token_probe
from eval.config import CompareConfig
from eval.rows import Row
from eval.tokens import TokenSet

_HIGHEST = jax.lax.Precision.HIGHEST


def train_pool(
    config: CompareConfig,
    data: Dataset,
    tokens: TokenSet,
    row: Row,
    fit: tuple[np.ndarray, np.ndarray],
    basis: np.ndarray | None,
    folder: Path,
) -> Callable[[Array, Array], Array]:
    """The pool of a trained row, (standardised tokens, weights) → features.

    Pool and linear readout are trained with AdamW, the same number of steps of the same batches for every pool; the
    validation loss chooses step, learning rate and weight decay, of which the grid is the same too. A killed fit goes
    on from its checkpoint in `folder`.
    """
    tokens.require_kept(f"the trained pool {row.label!r} (see --trained)")
    train, validation = data.rows("train"), data.rows("validation")
    matrix = None if row.width is None or basis is None else basis[:, : row.width]
    pool = get_pooler(row.pooler, features=row.width or tokens.features, seed=row.seed, **dict(row.options))

    def walk() -> Iterator[TokenBatch]:
        for batch in tokens.mixed(np.concatenate([train, validation]), config.token_budget // 2):
            x = np.where(batch.weights[..., None] > 0, (batch.tokens - fit[0]) / fit[1], 0)
            yield batch.rows, x if matrix is None else x @ matrix, batch.weights

    looks = max(1, config.steps // 10)
    probes = []
    for rate in config.learning_rates:
        budget = Budget(config.steps, rate, evaluate_every=looks, patience=10, shuffle=8, seed=row.seed)
        where = folder / f"rate-{rate:g}"
        probes.append(
            fit_token_probe(
                pool, walk, data.targets, train, validation, data.task, config.weight_decays, budget, checkpoint=where
            )
        )
    best = max(probes, key=lambda probe: probe.validation.max())
    trained: Callable = best.pool  # type: ignore[assignment]
    return trained if matrix is None else lambda x, w: trained(jnp.matmul(x, matrix, precision=_HIGHEST), w)
