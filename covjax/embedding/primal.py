"""Linear maps of wide vectors from their kernel: sums over the training vectors, which pass by in batches."""

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


class TrainingSums:
    """`Sums` in the making: batches of row numbers and vectors of `width` numbers; rows not in `train` do not count."""

    def __init__(self, train: Int[np.ndarray, "n_train"], alpha: Float[np.ndarray, "n_train k"], width: int):
        self._weights = dict(zip(train.tolist(), alpha))
        dtype = np.float64 if 8 * width * alpha.shape[1] <= _LARGE else np.float32
        self._weighted, self._mean, self._square = np.zeros((width, alpha.shape[1]), dtype), np.zeros(width), 0.0

    def add(self, rows: Int[np.ndarray, "b"], vectors: Float[np.ndarray, "b p"]) -> None:
        """Count a batch in."""
        chosen = [i for i, row in enumerate(rows.tolist()) if row in self._weights]
        if not chosen:
            return
        coefficients = np.array([self._weights[rows[i]] for i in chosen]).reshape(len(chosen), -1)
        for first in range(0, len(self._mean), _COLUMNS):
            part = vectors[chosen, first : first + _COLUMNS].astype(np.float64)
            self._weighted[first : first + _COLUMNS] += part.T @ coefficients
            self._mean[first : first + _COLUMNS] += part.sum(0) / len(self._weights)
            self._square += np.square(part).sum() / len(self._weights)

    def total(self) -> Sums:
        """The sums of all processes, which call this together, each after batches of its own rows."""
        weighted, mean = gather(self._weighted[None]).sum(0), gather(self._mean[None]).sum(0)
        square = float(gather(np.array([self._square])).sum())
        variance = square - float(mean @ mean)
        # Less than this share is the rounding of equal rows.
        return Sums(weighted, mean, variance if variance > 1e-13 * square else 0.0)


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
