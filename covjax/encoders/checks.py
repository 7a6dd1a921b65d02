"""Checks of an encoder: padding, norms, and the loss of its own head.

To see what an autoencoder's reconstruction costs the model, put it in the place of the activations.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder, layer_index, tokenize
from covjax.encoders.embed import bucket_edges, embed, padded_batches, plan_rows
from covjax.errors import InputError

SINK_RATIO = 10.0  # times the median norm


def check_padding_invariance(
    encoder: Encoder, sequences: Sequence[str], layers: tuple[int, ...] = (-1,), tolerance: float = 1e-3
) -> float:
    """Largest change of a pooled token by padding and by the other sequences of its batch, in the layer's deviations.

    Every sequence is run alone, without padding, and together with the others under 16 tokens of padding and more.
    Every length is compiled once: a few sequences of different lengths are enough. ESM-2 8M reaches 8e-5 in float32 by
    rounding alone; bfloat16 needs a larger `tolerance`.
    Raises InputError naming the sequence and the layer where the change is over `tolerance`, or where an activation is
    NaN or infinite.
    """
    if len(sequences) < 2:
        raise InputError(f"sequences: {len(sequences)}; at least two are needed to see what a batch changes")
    longest = max(len(encoder.encode(sequence)) for sequence in sequences)
    tokens, mask, pool = tokenize(encoder, sequences, longest + 16)
    together = encoder.apply(tokens, mask, layers)
    worst = 0.0
    for row, sequence in enumerate(sequences):
        alone_tokens, alone_mask, alone_pool = tokenize(encoder, [sequence])
        alone = encoder.apply(alone_tokens, alone_mask, layers)
        for layer in layers:
            expected = np.asarray(alone[layer], np.float32)[0][alone_pool[0]]
            found = np.asarray(together[layer], np.float32)[row][pool[row]]
            if expected.shape != found.shape:
                raise InputError(f"sequence {row}: {len(expected)} pooled tokens alone, {len(found)} in a batch")
            scale = np.asarray(together[layer], np.float32)[pool].std()
            deviation = float(np.abs(found - expected).max() / max(scale, np.finfo(np.float32).tiny))
            if not deviation <= tolerance:
                raise InputError(
                    f"encoder {encoder.name}: sequence {row} changes by {deviation:.1e} deviations at layer {layer} "
                    f"with padding and other sequences beside it, more than the tolerance {tolerance:.1e}"
                )
            worst = max(worst, deviation)
    return worst


@dataclass(frozen=True)
class Sink:
    """A token of outstanding norm: the sequence's row, the token's place in it (special ones counted), its id."""

    row: int
    position: int
    token: int | None
    ratio: float  # norm over the layer's median norm


@dataclass(frozen=True)
class LayerNorms:
    """Euclidean norms of the pooled tokens of one layer."""

    median: float
    largest: float
    sink_share: float  # share of tokens over SINK_RATIO medians
    sinks: tuple[Sink, ...]  # the largest of them, at most 20


def norm_report(
    source: Encoder | Iterable[tuple[Any, dict[int, Any], Any]],
    sequences: Sequence[str] = (),
    layers: tuple[int, ...] = (-1,),
) -> dict[int, LayerNorms]:
    """Norms of the pooled tokens of each layer, and the attention sinks among them.

    A token of 100 median norms weighs 10,000 in a second moment. `source` is an encoder with `sequences` and `layers`,
    or batches as `embed` and `from_arrays` yield them (all their layers). Special tokens are not counted.
    Raises InputError if there are no tokens, and for NaN or infinity, with the row and the layer.
    """
    encoder: Encoder | None = None
    batches: Iterable[tuple[Any, dict[int, Any], Any]]
    if isinstance(source, Encoder):
        encoder, batches = source, embed(source, sequences, layers)
    else:
        batches = source
    found: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for rows, states, pool in batches:
        place, position = np.nonzero(np.asarray(pool))
        for layer, x in states.items():
            norms = np.linalg.norm(np.asarray(x, np.float32)[place, position].astype(np.float64), axis=-1)
            if not np.isfinite(norms).all():
                bad = int(np.asarray(rows)[place[~np.isfinite(norms)][0]])
                raise InputError(f"sequence {bad}: NaN or infinity at layer {layer}")
            found.setdefault(layer, []).append((np.asarray(rows)[place], position, norms))
    if not found:
        raise InputError("activations: no batch to report on")
    return {layer: _layer_norms(parts, encoder, sequences) for layer, parts in found.items()}


def _layer_norms(parts: list[Any], encoder: Encoder | None, sequences: Sequence[str]) -> LayerNorms:
    rows, positions, norms = (np.concatenate(part) for part in zip(*parts))
    median = float(np.median(norms))
    ratios = norms / max(median, float(np.finfo(np.float32).tiny))
    order = np.argsort(-ratios)[:20]
    sinks = tuple(
        Sink(
            row=int(rows[i]),
            position=int(positions[i]),
            token=None if encoder is None else int(encoder.encode(sequences[rows[i]])[positions[i]]),
            ratio=float(ratios[i]),
        )
        for i in order
        if ratios[i] > SINK_RATIO
    )
    return LayerNorms(median, float(norms.max()), float((ratios > SINK_RATIO).mean()), sinks)


@runtime_checkable
class HeadedEncoder(Encoder, Protocol):
    """An encoder that still has the head of its pre-training, where `has_head`."""

    has_head: bool

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """What the model reads, the class it must give for every token, and the tokens that count."""

    def logits(
        self, activations: Float[Array | np.ndarray, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """The head's output, jitted, where layer `layer` (counted from 0) has these activations."""


def through_head(
    encoder: Encoder,
    layer: int,
    encoded: Sequence[Int[np.ndarray, "_"]],
    seed: int = 0,
    token_budget: int = 8192,
    max_shapes: int = 4,
) -> tuple[Float[np.ndarray, "tokens d"], Callable[[Float[Any, "tokens d"]], Float[Array, ""]]]:
    """Activations of the pooled tokens, and the mean cross-entropy of the head as a function of them.

    Args:
        encoded: token ids that `encoder.encode` gave. Special tokens keep their activations.
        seed: of the masked tokens, where the objective masks.

    Raises InputError for an encoder without a head, a layer it does not have, and sequences of which no token counts.
    """
    if not getattr(encoder, "has_head", False):
        raise InputError(f"encoder: {encoder.name} has no head of its pre-training, so no loss to recover")
    assert isinstance(encoder, HeadedEncoder)
    number, rng = layer_index(layer, encoder.num_layers), np.random.default_rng(seed)
    lengths = np.array([len(ids) for ids in encoded])
    plan = plan_rows(lengths, bucket_edges(lengths, max_shapes), 1)
    parts = []
    for _, tokens, mask, pool in padded_batches(encoder, encoded, None, plan, token_budget):
        inputs, targets, counted = encoder.objective(tokens, mask, pool, rng)
        parts.append((np.array(encoder.apply(inputs, mask, (layer,))[layer]), mask, pool, targets, counted))
    total = sum(int(counted.sum()) for *_, counted in parts)
    if not total:
        raise InputError(f"encoded: the head has nothing to predict in {len(encoded)} sequences")

    def loss(flat: Float[Any, "tokens d"]) -> Float[Array, ""]:
        rest, losses = np.asarray(flat), []
        for x, mask, pool, targets, counted in parts:
            own, rest = rest[: pool.sum()], rest[pool.sum() :]
            replaced = x.copy()
            replaced[pool] = own
            each = optax.softmax_cross_entropy_with_integer_labels(encoder.logits(replaced, mask, number), targets)
            losses.append(jnp.sum(jnp.where(counted, each, 0)))
        return sum(losses, jnp.zeros(())) / total

    return np.concatenate([x[pool] for x, _, pool, *_ in parts]), loss
