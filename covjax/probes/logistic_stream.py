"""Logistic regression on features that do not fit into memory: all L2 penalties at once, from a stream of batches."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float

from covjax.errors import InputError
from covjax.inputs import NumbersLike, check_features, check_penalties, exact_mean, host_array
from covjax.jobs.checkpoint import leaf_digests
from covjax.jobs.distributed import gather
from covjax.probes.coordinates import LinearProbe
from covjax.probes.losses import (
    ClassWeights,
    check_targets,
    check_varied,
    element_loss,
    element_weights,
    log_odds,
    sample_loss,
)
from covjax.probes.minibatch import Budget, fit_minibatch
from covjax.sharding import own_parts
from covjax.tokens import HIGHEST

Stream = Callable[[], Iterator[tuple[Float[np.ndarray, "b p"], Bool[np.ndarray, "b k"]]]]


@dataclasses.dataclass(frozen=True)
class StreamPath:
    """One probe on raw features per penalty, the step it is from, and all validation values (minus the loss)."""

    probes: list[LinearProbe]
    best_step: np.ndarray
    validation: Float[np.ndarray, "looks penalties"]


def fit_logistic_stream(
    stream: Stream,
    validation: Stream,
    penalties: NumbersLike,
    exclusive: bool,
    budget: Budget | None = None,
    *,
    class_weights: ClassWeights = None,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
    axis: str = "",
    missing: str = "refuse",
) -> StreamPath:
    """The optima of `fit_logistic_path` by Adam, with one pass for all λ; each λ keeps its best step on validation.

    The objective, the unit of λ and the scaling of the coordinates are those of `fit_logistic_path`, but the axes are
    the features' own and not rotated. A first pass over the stream computes the mean and the variances. The targets
    stay in memory (12 · n · k bytes).

    Args:
        stream: called once per epoch; must give the same batches (features, targets) in the same order each time. Only
            the last may be smaller, because every size compiles again.
        validation: the same for held-out samples; their mean loss, without class weights, stops every λ early.
        penalties: λ > 0.
        exclusive: softmax over classes instead of independent labels.
        budget: see `Budget`.
        class_weights: see `losses.element_weights`.
        checkpoint: folder; a killed fit continues from there to the same bits.
        mesh, axis: the rows of a batch are split over this axis; without it, each process fits alone. In a job of
            several processes every process streams its own rows, at least one, in batches of one size, and a step
            takes one batch of each. A process with fewer rows adds rows of weight 0. All processes call this
            together and get the same probes.
        missing: see `fit_logistic_path`; of held-out samples too.

    Raises:
        InputError: features that are not finite (sample named) or do not vary, batches that do not fit each other, an
            output without both classes, penalties not positive, a checkpoint of other settings, batches that cannot be
            split evenly over the axis or differ in size between processes.
    """
    budget = budget or Budget(learning_rate=1e-2)
    kind = "multiclass" if exclusive else "multilabel"
    penalties = check_penalties(penalties, least=1e-30, most=1e30)
    together = gather if mesh is not None else np.asarray  # without a mesh this process may be alone here
    part = _first_pass(stream) if mesh is None else _everywhere(_first_pass(stream))
    y, present = check_targets(kind, part.targets, missing)
    check_varied(kind, y, present)
    mean, variance, size, batches_per_epoch = part.mean, part.scatter / len(part.targets), part.size, part.batches
    rows = _rows(mesh, axis, size)
    weights = element_weights(y, class_weights, exclusive, present)
    scale = np.sqrt(variance.sum())
    if not scale > 0:
        raise InputError(f"features: all {len(y)} training samples are equal; nothing to fit")
    curvature = jnp.asarray(variance / scale**2 / 4, jnp.float32)[:, None]

    def scores(tree, penalty, x):
        slopes = tree["weights"] * jax.lax.rsqrt(curvature + penalty)
        z = (x - mean.astype(np.float32)[None]) / np.float32(scale)
        return jnp.matmul(z, slopes, precision=HIGHEST) + tree["bias"][None], slopes

    def loss(tree, penalty, x, target, weight):
        logits, slopes = scores(tree, penalty, x)
        # Summed over an epoch this is the mean over samples, whatever the size of the last batch.
        data = sample_loss(kind, logits, target, weight).sum() * (batches_per_epoch / len(y))
        return data + 0.5 * penalty * (slopes**2).sum()

    def batches():
        row, given = part.begin, 0
        for x, _ in stream():
            pad, end = size - len(x), row + len(x)
            parts = host_array(x, "stream"), y[row:end], weights[row:end]
            yield tuple(np.pad(np.asarray(a, np.float32), ((0, pad), (0, 0))) for a in parts)
            row, given = end, given + 1
        for _ in range(given, batches_per_epoch):
            yield tuple(np.zeros((size, a.shape[-1]), np.float32) for a in (mean, y, weights))

    levels = jnp.asarray(penalties, jnp.float32)

    @jax.jit
    def held_out(trees, x, target, here):
        def one(tree, penalty):
            return (here * element_loss(kind, scores(tree, penalty, x)[0], target)).sum(0)

        return jax.vmap(one)(trees, levels)

    def validate(trees) -> np.ndarray:
        total, count = np.zeros((len(penalties), weights.shape[1])), np.zeros(weights.shape[1])
        for x, target in validation():
            x = check_features(x, "validation", len(mean))
            target, known = check_targets(kind, target, missing, len(x))
            if target.shape[1] != y.shape[1]:
                raise InputError(f"validation: {target.shape[1]} outputs do not fit the stream's {y.shape[1]}")
            here = np.ones(target.shape) if known is None else known
            here = here[:, : weights.shape[1]].astype(np.float32)
            total += np.asarray(held_out(trees, x.astype(np.float32), target.astype(np.float32), here))
            count += here.sum(0)
        total, count = together(total[None]).sum(0), together(count[None]).sum(0)
        if not count.all():
            raise InputError(f"validation: column {int(np.argmin(count))} has no label that is present")
        return -(total / count).sum(1)

    start = {
        "weights": jnp.zeros((len(mean), y.shape[1])),
        "bias": jnp.asarray(log_odds(kind, y, weights), jnp.float32),
    }
    settings = {"exclusive": exclusive, "first_batch": part.digest} | leaf_digests({"targets": y, "weights": weights})
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(penalties)), start)
    fit = fit_minibatch(
        loss,
        starts,
        penalties,
        batches,
        validate,
        budget,
        decay=False,
        checkpoint=checkpoint,
        settings=settings,
        rows=rows,
    )
    probes = []
    for i, penalty in enumerate(penalties):
        raw = fit.best["weights"][i].astype(np.float64) / np.sqrt(np.asarray(curvature, np.float64) + penalty) / scale
        probes.append(LinearProbe(raw, fit.best["bias"][i].astype(np.float64) - mean @ raw))
    return StreamPath(probes, fit.best_step, fit.validation)


class _Pass(NamedTuple):
    """What a look at every batch tells: of the features mean and scatter, all targets, where the own ones begin."""

    mean: np.ndarray
    scatter: np.ndarray
    targets: np.ndarray
    begin: int
    size: int
    batches: int
    digest: str


def _first_pass(stream: Stream) -> _Pass:
    """Of this process's batches; mean and scatter by Chan, Golub, LeVeque (1983)."""
    count, size = 0, 0
    targets: list[np.ndarray] = []
    digest: dict[str, str] = {}
    mean = scatter = np.zeros(())
    for x, target in stream():
        x = host_array(x, "stream").astype(np.float64)
        target = host_array(target, "stream")
        target = target[:, None] if target.ndim == 1 else target
        fits = x.ndim == target.ndim == 2 and 0 < len(x) == len(target)
        if not fits or (count and (x.shape[1:] != mean.shape or target.shape[1] != targets[0].shape[1])):
            raise InputError(f"stream: features {x.shape} and targets {np.shape(target)} at sample {count} do not fit")
        if len(bad := np.flatnonzero(~np.isfinite(x).all(1))):
            raise InputError(f"stream: NaN or inf in {len(bad)} samples of a batch, first sample {count + bad[0]}")
        digest = digest or leaf_digests({"features": x, "targets": target})
        if targets and len(targets[-1]) != size:
            raise InputError(f"stream: only the last batch may differ from {size} samples, got {len(targets[-1])}")
        size = size or len(x)
        if len(x) > size:
            raise InputError(f"stream: only the last batch may differ from {size} samples, got {len(x)}")
        own, total = exact_mean(x), count + len(x)
        scatter = scatter + ((x - own) ** 2).sum(0) + (own - mean) ** 2 * (count * len(x) / total)
        mean = mean + (own - mean) * (len(x) / total)
        count = total
        kept = target.astype(np.float32)
        if (wrong := (kept != target) & ~np.isnan(kept)).any():  # before the cast could make a label of it
            raise InputError(f"stream: labels are 0 and 1, got {float(target[wrong][0])!r} in a batch of targets")
        targets.append(kept)
    if not count:
        raise InputError("stream: it gave no batch to train on")
    return _Pass(mean, scatter, np.concatenate(targets), 0, size, len(targets), json.dumps(digest))


def _everywhere(own: _Pass) -> _Pass:
    """Of the batches of all processes, in the order of the processes."""
    sizes, counts = gather(np.array([own.size])), gather(np.array([len(own.targets)]))
    widths = gather(np.array([[len(own.mean), own.targets.shape[1]]]))
    batches = gather(np.array([own.batches]))
    # The only batch of a process may be smaller: it is its last.
    if (sizes[batches > 1] < sizes.max()).any() or len({*map(tuple, widths.tolist())}) > 1:
        raise InputError(
            f"stream: batches of {sizes.tolist()} samples and {widths.tolist()} features and outputs in the processes; "
            "all need the same"
        )
    means, scatters = gather(own.mean[None]), gather(own.scatter[None])
    mean = counts @ means / counts.sum()
    scatter = scatters.sum(0) + counts @ (means - mean) ** 2
    digest = gather(np.frombuffer(own.digest.encode(), np.uint8)).tobytes().decode()
    begin = int(counts[: jax.process_index()].sum())
    return _Pass(mean, scatter, gather(own.targets), begin, int(sizes.max()), int(batches.max()), digest)


def _rows(mesh: Mesh | None, axis: str, size: int) -> NamedSharding | None:
    if mesh is None:
        return None
    if axis not in mesh.axis_names:
        raise InputError(f"axis: {axis!r} is not one of the mesh's: {', '.join(map(str, mesh.axis_names))}")
    if len({device.process_index for device in mesh.devices.flat}) < jax.process_count():
        raise InputError("mesh: it has no device of some processes of the job; all take part in a fit with a mesh")
    if size % (parts := own_parts(mesh, axis)):
        raise InputError(f"stream: batches of {size} samples cannot be split over {parts} devices a process")
    # Axes that XLA sees to, as `jax.make_mesh`'s may not be.
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec(axis))
