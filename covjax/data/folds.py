"""Labels that every fold of a cross-validation can train, validate and test on."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from covjax.data.splits import check_splits, drop_rare, first_names, take_rows
from covjax.data.table import Dataset
from covjax.errors import InputError


def drop_rare_in_folds(folds: Sequence[Dataset], minimum: int | None = None) -> list[Dataset]:
    """Leave out of all folds what `drop_rare` would leave out of any, with one warning.

    `minimum` is by default 1 for several labels, where one split has 5: as a rule a label with one positive in the test
    set of each of five folds has five that are tested.

    Raises InputError where nothing to predict is left, and as `drop_rare`.
    """
    first = folds[0]
    several = first.task == "multilabel"
    least = (1 if several else 0) if minimum is None else minimum
    common = set.intersection(*(set(drop_rare(fold, least).target_names) for fold in folds))
    rare = np.array([name not in common for name in first.target_names])
    if not rare.any():
        return list(folds)
    what = "labels" if several else "classes"
    names = [name for name in first.target_names if name not in common]
    if len(common) < (1 if several else 2):
        raise InputError(
            f"{first.name}: {len(common)} of {len(rare)} {what} have at least {least} rows with and one without in "
            "every part of every fold; give more rows, fewer --folds, or a smaller --min-positives"
        )
    rows = np.arange(len(first)) if several else np.flatnonzero(~first.targets[:, rare].any(1))
    more = "" if several else f", with {len(first) - len(rows):,} rows"
    note = (
        f"{len(names):,} of {len(rare):,} {what} have fewer than {least} rows in some part of some fold and are left "
        f"out{more} (--min-positives {least}): {first_names(names)}"
    )
    names = [name for name in first.target_names if name in common]
    return [
        dataclasses.replace(
            take_rows(fold, rows),
            targets=fold.targets[rows][:, ~rare],
            target_names=tuple(names),
            warnings=(*fold.warnings, note),
        )
        for fold in folds
    ]


def check_folds(folds: Sequence[Dataset], count: int) -> None:
    """Raise InputError as `check_splits` for the first fold that it refuses, named; `count` folds are one repeat."""
    for place, fold in enumerate(folds):
        try:
            check_splits(fold)
        except InputError as error:
            repeat, number = divmod(place, count)
            raise InputError(f"fold {number + 1} of {count}, repeat {repeat + 1}: {error}") from None


def all_training(folds: Sequence[Dataset]) -> Dataset:
    """The folds' dataset with every row in training, for what is fitted without labels."""
    return dataclasses.replace(folds[0], splits=np.full(len(folds[0]), "train"))
