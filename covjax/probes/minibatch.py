"""AdamW on mini-batches for a whole grid of strengths at once, in one pass over the data.

Every strength keeps its own parameters and its own best ones by validation. All state (parameters, optimiser, position
in the data, the best so far, the validation curve) is one Orbax checkpoint, so a killed fit continues to the same bits.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from covjax.errors import InputError
from covjax.jobs.checkpoint import leaf_digests
from covjax.jobs.disk import json_digest
from covjax.jobs.distributed import once
from covjax.jobs.folder import load_newest, load_newest_together, save_step

Tree = Any
Batch = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Budget:
    """The budget of every fit of a comparison: steps, peak learning rate, and how often it is validated.

    The rate rises over the first 5 % of the steps and falls along a cosine to 0. Training ends early if no strength
    has improved in `patience` validations. `seed` sets the order of the batches, shuffled in a buffer of `shuffle`
    batches.
    """

    steps: int = 2000
    learning_rate: float = 1e-3
    evaluate_every: int = 100
    patience: int = 10
    shuffle: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "evaluate_every", "patience", "shuffle"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)!r} must be > 0")


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The best parameters of every strength (stacked on axis 0), the step they are from, and all validation values."""

    best: Tree
    best_step: np.ndarray
    validation: Float[np.ndarray, "looks strengths"]


def fit_minibatch(
    loss: Callable[..., Float[jax.Array, ""]],
    start: Tree,
    strengths: Sequence[float],
    batches: Callable[[], Iterator[Batch]],
    validate: Callable[[Tree], Float[np.ndarray, "strengths"]],
    budget: Budget,
    *,
    decay: bool,
    checkpoint: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: NamedSharding | None = None,
) -> Fitted:
    """Minimise `loss(parameters, strength, *batch)` for every strength from its start; `validate` is to be maximised.

    Args:
        loss: of one strength on one batch; batches of few shapes compile few programs.
        start: parameters of every strength, a pytree of arrays with L on axis 0.
        strengths: L numbers, given to `loss` and, where `decay`, to AdamW as its decoupled weight decay (Loshchilov,
            Hutter 2019) of the parameters with two or more axes beside that one.
        batches: called once per epoch; must give the same batches in the same order each time.
        validate: stacked parameters (L on axis 0) → L values.
        budget: see `Budget`.
        decay: whether the optimiser decays weights (otherwise `loss` has to include the penalty).
        checkpoint: folder for the state, written at every validation; a fit that is there is continued.
        settings: JSON that must be equal for that.
        rows: how the rows of a batch are spread over the devices of a mesh, of one process or many; parameters are on
            all devices. Every process gives its own part of each batch. `validate` gets arrays on one device of its
            process, and must return the same values in all processes. All see the checkpoint's folder and call this
            together.

    Raises:
        InputError: no batches, a checkpoint of other settings, values of validation that are not finite.
    """
    levels = jnp.asarray(strengths, jnp.float32)
    rate = optax.warmup_cosine_decay_schedule(0, budget.learning_rate, max(1, budget.steps // 20), budget.steps)

    def optimiser(strength):
        mask = jax.tree.map(lambda leaf: leaf.ndim > 2, start)
        return optax.adamw(rate, weight_decay=strength if decay else 0.0, mask=mask)

    def one(parameters, state, strength, batch):
        gradient = jax.grad(loss)(parameters, strength, *batch)
        updates, state = optimiser(strength).update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    def step(state, batch):
        train = jax.vmap(one, in_axes=(0, 0, 0, None))
        return train(state["parameters"], state["optimiser"], levels, batch)

    whole = None if rows is None else NamedSharding(rows.mesh, PartitionSpec())
    spread = jnp.asarray if rows is None else functools.partial(jax.make_array_from_process_local_data, rows)
    advance = jax.jit(step, donate_argnums=0, out_shardings=whole)
    first = jax.tree.map(jnp.array, start)  # copies: the buffers are donated
    looks = -(-budget.steps // budget.evaluate_every)
    state = {
        "train": {"parameters": first, "optimiser": jax.vmap(optimiser(0.0).init)(first)},
        "best": jax.tree.map(np.array, first),
        "best_step": np.zeros(len(levels), np.int32),
        "validation": np.full((looks, len(levels)), -np.inf, np.float64),
        "position": np.zeros(3, np.int32),  # step, epoch, batches of the epoch that were used
    }
    manifest = {"budget": dataclasses.asdict(budget), "strengths": list(map(float, strengths)), "decay": decay}
    manifest |= {"start": json_digest(leaf_digests(start))} | dict(settings or {})
    newest = load_newest if rows is None else load_newest_together  # without a mesh this process may be alone here
    if checkpoint is not None and (found := newest(checkpoint, state, manifest)) is not None:
        state = found[0]
    state["train"] = jax.tree.map(lambda leaf: _on_all(leaf, whole), state["train"])
    while not _finished(state, budget):
        for batch in itertools.islice(_shuffled(batches(), budget, state["position"][1]), state["position"][2], None):
            parameters, optimiser_state = advance(state["train"], tuple(map(spread, batch)))
            state["train"] = {"parameters": parameters, "optimiser": optimiser_state}
            state["position"] = state["position"] + np.array([1, 0, 1], np.int32)
            count = int(state["position"][0])
            if count % budget.evaluate_every == 0 or count == budget.steps:
                fresh = jax.device_get(parameters)
                here = parameters if rows is None else jax.device_put(fresh, jax.local_devices()[0])
                _look(state, fresh, validate(here), (count - 1) // budget.evaluate_every)
                if checkpoint is not None:
                    save = functools.partial(save_step, checkpoint, count, jax.device_get(state), manifest, keep=1)
                    save() if rows is None else once(save)
            if _finished(state, budget):
                break
        if state["position"][2] == 0:
            raise InputError("batches: the stream gave no batch to train on")
        if not _finished(state, budget):
            state["position"] = np.array([state["position"][0], state["position"][1] + 1, 0], np.int32)
    done = -(-int(state["position"][0]) // budget.evaluate_every)
    return Fitted(state["best"], np.asarray(state["best_step"]), np.asarray(state["validation"])[:done])


def _finished(state: dict[str, Any], budget: Budget) -> bool:
    count = int(state["position"][0])
    quiet = count - int(np.max(state["best_step"]))
    return count >= budget.steps or quiet >= budget.patience * budget.evaluate_every


def _on_all(leaf: Any, whole: NamedSharding | None) -> jax.Array:
    if whole is None:
        return jnp.asarray(leaf)
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, whole, lambda index: array[index])


def _look(state: dict[str, Any], fresh: Tree, values: np.ndarray, row: int) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"validation: values {np.asarray(values).tolist()} must be finite; lower the learning rate")
    better = values > state["validation"].max(0)
    state["validation"] = np.array(state["validation"])
    state["validation"][row] = values
    state["best_step"] = np.where(better, state["position"][0], state["best_step"]).astype(np.int32)
    state["best"] = jax.tree.map(
        lambda new, old: np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old), fresh, state["best"]
    )


def _shuffled(batches: Iterator[Batch], budget: Budget, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch in an order of its own, from a buffer: the next one replaces the one drawn."""
    rng = np.random.default_rng((budget.seed, int(epoch)))
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if len(held) > budget.shuffle:
            yield held.pop(rng.integers(len(held)))
    for i in rng.permutation(len(held)):
        yield held[i]
