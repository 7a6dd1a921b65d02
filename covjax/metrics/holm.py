"""Several comparisons at once: Holm's step-down correction."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.inputs import host_array


def holm(p_values: Sequence[float] | Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """Adjusted p-values: rejecting those <= α keeps the family-wise error at α under any dependence (Holm 1979).

    The i-th smallest of m becomes max over j <= i of min(1, (m − j + 1) p_(j)), at the place of the original.
    Raises InputError for an empty or nested sequence and for values outside [0, 1].
    """
    p = host_array(p_values, "p_values").astype(np.float64)
    if p.ndim != 1 or not p.size:
        raise InputError(f"p_values: shape {p.shape} must be (m >= 1,)")
    if not ((p >= 0) & (p <= 1)).all():
        bad = p[~((p >= 0) & (p <= 1))][0]
        raise InputError(f"p_values: {bad} must be in [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
