"""Linear maps of wide vectors from their kernel: sums over the training vectors, which pass by in batches."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from covjax.jobs.distributed import gather
from covjax.probes import DualProbe, LinearProbe

_LARGE = 2**30  # bytes of sums above which they are float32
_COLUMNS = 2**16  # of the vectors, widened at a time


class Sums(NamedTuple):
    """Σ α_i v_i over the training vectors v, their mean, and the mean square of what is left without it."""

    weighted: Float[np.ndarray, "p k"]
    mean: Float[np.ndarray, "p"]
    square: float


def training_sums(
    batches: Iterable[tuple[Int[np.ndarray, "b"], Float[np.ndarray, "b p"]]],
    train: Int[np.ndarray, "n_train"],
    alpha: Float[np.ndarray, "n_train k"],
    width: int,
) -> Sums:
    """The sums over batches of row numbers and vectors of `width` numbers; rows that are not in `train` do not count.

    In a job of several processes all call this together, each with batches of its own rows.
    """
    weights = dict(zip(train.tolist(), alpha))
    total = np.zeros((width, alpha.shape[1]), np.float64 if 8 * width * alpha.shape[1] <= _LARGE else np.float32)
    mean, square = np.zeros(width), 0.0
    for rows, vectors in batches:
        chosen = [i for i, row in enumerate(rows.tolist()) if row in weights]
        coefficients = np.array([weights[rows[i]] for i in chosen]).reshape(len(chosen), -1)
        for first in range(0, width if chosen else 0, _COLUMNS):
            part = vectors[chosen, first : first + _COLUMNS].astype(np.float64)
            total[first : first + _COLUMNS] += part.T @ coefficients
            mean[first : first + _COLUMNS] += part.sum(0) / len(train)
            square += np.square(part).sum() / len(train)
    total, mean = gather(total[None]).sum(0), gather(mean[None]).sum(0)
    square = float(gather(np.array([square])).sum())
    variance = square - float(mean @ mean)
    return Sums(total, mean, variance if variance > 1e-13 * square else 0.0)  # less is the rounding of equal rows


def centred_probe(probe: DualProbe, sums: Sums) -> LinearProbe:
    """The probe on raw vectors of one on the kernel of these, centred and scaled to a mean square of 1; see `Sums`."""
    scale = sums.square or 1.0
    weights = sums.weighted
    weights -= np.multiply.outer(sums.mean, probe.alpha.sum(0))
    weights /= scale
    return LinearProbe(weights, probe.bias - sums.mean @ weights)


def block_of(sums: Sums) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, ""]]:
    """Centre and scale that give the vectors mean squared norm 1 on the training rows; equal rows stay as they are."""
    return sums.mean.astype(np.float32), np.asarray(np.sqrt(sums.square) or 1.0)
