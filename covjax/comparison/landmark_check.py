"""What a comparison through landmarks costs: probes on a sample of the rows, exactly and through them."""

from collections.abc import Sequence

import numpy as np

from covjax.comparison.config import CompareConfig
from covjax.comparison.features import Tables
from covjax.comparison.probing import TASKS, best_ridge_value
from covjax.data import Dataset
from covjax.embedding.tables import Table, landmark_space
from covjax.probes import kernel_space

_FEWEST = 10  # rows of a sample that says anything


def landmark_warnings(config: CompareConfig, data: Dataset, tables: Tables) -> list[str]:
    """One sentence on all rows that were compared through landmarks, with the error of each; none where none was."""
    figures, landmarks = [], None
    for label, table in tables.items():
        if table.landmarks is not None:
            landmarks = table.landmarks
            exact, approximate = sample_scores(table, data, config.penalties)
            figures.append(f"{label} {exact:.3f} and {approximate:.3f}")
    if landmarks is None:
        return []
    text = (
        f"{len(figures)} rows are compared through {len(landmarks.rows):,} of {len(data.rows('train')):,} training "
        "sequences (Nyström), not exactly"
    )
    if min(len(landmarks.fitted), len(landmarks.scored)) < _FEWEST:
        return [f"{text}; too few sequences are left to see what that costs"]
    name = TASKS[data.task].metrics[TASKS[data.task].primary][0]
    return [
        f"{text}; {name} on {len(landmarks.scored):,} validation sequences of ridge on {len(landmarks.fitted):,} other "
        f"training sequences, exactly and so: {', '.join(figures)}"
    ]


def sample_scores(table: Table, data: Dataset, penalties: Sequence[float]) -> tuple[float, float]:
    """The best validation score of ridge on the sample of a table with landmarks: with the exact kernel, and so."""
    landmarks, task = table.landmarks, TASKS[data.task]
    assert landmarks is not None
    if min(len(landmarks.fitted), len(landmarks.scored)) < _FEWEST:
        return float("nan"), float("nan")
    rows = np.concatenate([landmarks.fitted, landmarks.scored])
    targets = data.targets[landmarks.fitted], data.targets[landmarks.scored]
    exact, through = landmarks.kernel, table.values[rows]
    return (
        best_ridge_value(task, kernel_space(exact[: len(landmarks.fitted)]), exact, *targets, penalties),
        best_ridge_value(
            task, landmark_space(table.values, landmarks.rows, landmarks.fitted), through, *targets, penalties
        ),
    )
