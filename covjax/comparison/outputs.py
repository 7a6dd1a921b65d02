"""Every output of a regression with several: test values of a few rows, the chosen row's gain, and intervals."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from covjax.comparison.results import Interval, Output
from covjax.errors import InputError
from covjax.metrics import interval


def measure_outputs(
    metric: Callable[..., np.ndarray],
    truth: Float[np.ndarray, "n k"],
    predictions: Mapping[str, Sequence[np.ndarray]],
    counts: np.ndarray,
    names: Sequence[tuple[str, str]],
) -> tuple[Output, ...]:
    """Values of every row on every output, best first by the second row, whose gain over the first one is paired.

    predictions: for two rows or more, by label, those of one probe, or of one a seed, whose metrics are averaged.
    counts: bootstrap resamples of the n test rows. names: label and shown name of the k outputs.

    An output that is undefined in more than half of the resamples has no interval: a track of a few groups.
    """
    values = {
        label: np.mean([metric(truth, each) for each in several], axis=0) for label, several in predictions.items()
    }
    draws = {
        label: np.mean([metric(truth, each, counts) for each in several], axis=0)
        for label, several in predictions.items()
    }
    reference, chosen = list(predictions)[:2]
    out = [
        Output(
            label=label,
            name=name,
            values={row: float(each[j]) for row, each in values.items()},
            intervals={row: _interval(each[:, j]) for row, each in draws.items()},
            gain=float(values[chosen][j] - values[reference][j]),
            gain_interval=_interval(draws[chosen][:, j] - draws[reference][:, j]),
        )
        for j, (label, name) in enumerate(names)
    ]
    return tuple(sorted(out, key=lambda output: -output.values[chosen]))


def _interval(draws: np.ndarray) -> Interval | None:
    try:
        return interval(draws)
    except InputError:
        return None
