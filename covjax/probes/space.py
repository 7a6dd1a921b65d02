"""What the fits need to know of the coordinates they work in."""

from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from covjax.probes.rowspace import LinearProbe

Probe = TypeVar("Probe", covariant=True)


class Space(Protocol[Probe]):
    """Centred, scaled, orthogonal coordinates Z of the training samples: ZᵀZ/n = diag(eigenvalues), trace 1.

    `RowSpace` makes them of features, `KernelSpace` of kernel values.
    """

    @property
    def eigenvalues(self) -> Float[np.ndarray, "r"]:
        """Variance along every coordinate; they sum to 1."""

    def coordinates(self, inputs: Float[np.ndarray, "m p"], /) -> Float[np.ndarray, "m r"]:
        """Coordinates of samples, seen or not."""

    def probe(self, fitted: LinearProbe, /) -> Probe:
        """The probe on inputs (what `coordinates` takes) whose scores are those of `fitted` on their coordinates."""
