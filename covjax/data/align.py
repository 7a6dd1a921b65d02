"""Features and labels that come from different files: one order, or a refusal."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from covjax.errors import InputError, shown


def align(feature_ids: Sequence[str], label_ids: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Row numbers that put features into the order of the labels: `features[rows]`.

    Raises InputError where an id is missing on either side or stands twice on one: how many, and the first three.
    """
    problems = []
    for name, ids in (("features", feature_ids), ("labels", label_ids)):
        if twice := _repeated(ids):
            problems.append(f"{len(twice)} ids stand more than once in the {name} ({_first(twice)})")
    known_features, known_labels = set(feature_ids), set(label_ids)
    for lacking, ids, known in (("features", label_ids, known_features), ("labels", feature_ids, known_labels)):
        other = "labels" if lacking == "features" else "features"
        if missing := [name for name in dict.fromkeys(ids) if name not in known]:
            problems.append(f"{len(missing)} of {len(ids)} ids of the {other} have no {lacking} ({_first(missing)})")
    if problems:
        raise InputError(f"ids: {'; '.join(problems)}")
    position = {name: row for row, name in enumerate(feature_ids)}
    return np.array([position[name] for name in label_ids], int)


def _repeated(ids: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for name in ids:
        if name in seen:
            twice[name] = None
        seen.add(name)
    return list(twice)


def _first(ids: list[str]) -> str:
    return "first " + ", ".join(shown(name, 60) for name in ids[:3])
