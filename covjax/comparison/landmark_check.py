"""What stands for exact kernels where sequences are too many, and what that costs: probes on a sample, both ways."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from covjax.comparison.config import CompareConfig
from covjax.comparison.features import Tables
from covjax.comparison.probing import TASKS, best_ridge_value
from covjax.data import Dataset
from covjax.embedding.conjugate import described, sample_directions, solved_residuals
from covjax.embedding.tables import Landmarks, Table, landmark_space
from covjax.probes import kernel_space, row_space

_FEWEST = 10  # rows of a sample that says anything


def landmark_warnings(config: CompareConfig, data: Dataset, tables: Tables, labels: Sequence[str]) -> list[str]:
    """One sentence on all rows of each solver but the exact kernel, with the error of each row; `labels` name these.

    Conjugate gradients are exact, so theirs has the residuals, too.
    """
    figures: dict[str, list[str]] = {}
    examples: dict[str, Landmarks] = {}
    train = data.rows("train")
    for label in labels:
        table = tables[label]
        assert table.landmarks is not None
        exact, approximate = sample_scores(table, data, config.penalties)
        text = f"{label} {exact:.3f} and {approximate:.3f}"
        if table.directions is not None:
            residuals = solved_residuals(table, train, data.targets[train].astype(float), config.penalties)
            text += f" ({table.directions.steps} steps, {described(residuals, config.penalties)})"
        figures.setdefault(table.solver, []).append(text)
        examples[table.solver] = table.landmarks
        del table  # before the next one is read
    return [_sentence(solver, examples[solver], data, each) for solver, each in figures.items()]


def _sentence(solver: str, landmarks: Landmarks, data: Dataset, figures: Sequence[str]) -> str:
    texts: Mapping[str, str] = {
        "landmarks": f"{len(figures)} rows are compared through {len(landmarks.rows):,} of {len(data.rows('train')):,} "
        "training sequences (Nyström), not exactly",
        "sketch": f"{len(figures)} rows are compared through random sketches of their numbers, not exactly",
        "cg": f"{len(figures)} rows are compared by ridge that conjugate gradients solved on streamed features",
    }
    text = texts[solver]
    if min(len(landmarks.fitted), len(landmarks.scored)) < _FEWEST:
        cost = "; too few sequences are left to see what that costs"
        return text + (f": {', '.join(figures)}" if solver == "cg" else cost)
    name = TASKS[data.task].metrics[TASKS[data.task].primary][0]
    return (
        f"{text}; {name} on {len(landmarks.scored):,} validation sequences of ridge on {len(landmarks.fitted):,} other "
        f"training sequences, exactly and so: {', '.join(figures)}"
    )


def sample_scores(table: Table, data: Dataset, penalties: Sequence[float]) -> tuple[float, float]:
    """The best validation score of ridge on the sample of a table with landmarks: with the exact kernel, and so."""
    landmarks, task = table.landmarks, TASKS[data.task]
    assert landmarks is not None
    if min(len(landmarks.fitted), len(landmarks.scored)) < _FEWEST:
        return float("nan"), float("nan")
    rows, count = np.concatenate([landmarks.fitted, landmarks.scored]), len(landmarks.fitted)
    targets = data.targets[landmarks.fitted].astype(float), data.targets[landmarks.scored]
    exact, inputs = landmarks.kernel, table.values[rows]
    space: Any
    if table.solver == "sketch":
        space = row_space(inputs[:count])
    elif table.solver == "landmarks":
        space = landmark_space(table.values, landmarks.rows, landmarks.fitted)
    else:
        inputs, space = sample_directions(exact, targets[0], penalties)
    return (
        best_ridge_value(task, kernel_space(exact[:count]), exact, *targets, penalties),
        best_ridge_value(task, space, inputs, *targets, penalties),
    )
