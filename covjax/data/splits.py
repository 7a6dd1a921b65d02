"""Train, validation and test by group: no group stands on both sides."""

import dataclasses

import numpy as np

from covjax.data.table import Dataset
from covjax.errors import InputError

SPLITS = ("train", "validation", "test")


def assign_splits(data: Dataset, shares: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0) -> Dataset:
    """Return the dataset with every group drawn into train, validation or test; keep splits that the file gave.

    Groups are shuffled (`seed`) and laid end to end; a group goes where its middle row falls, so the shares of rows,
    not of groups, come close to `shares`. Identical sequences always share a group: where the file has no group
    column, the sequence itself is the group. That keeps duplicates, not homologues, on one side; give a `group` column
    (cluster, gene, chromosome block) for more.

    Raises InputError where a split would be empty.
    """
    if data.splits is not None:
        return data
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"shares: {shares} must be three positive numbers that sum to 1")
    names, index, counts = np.unique(np.array(data.groups), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.cumsum(counts[order])
    middle = (ends - counts[order] / 2) / len(data)
    part = np.searchsorted(np.cumsum(shares)[:2], middle, side="right")
    group_split = np.empty(len(names), int)
    group_split[order] = part
    splits = np.array(SPLITS)[group_split[index]]
    for name in SPLITS:
        if not (splits == name).any():
            raise InputError(
                f"{data.name}: {len(data)} rows in {len(names)} groups leave the split {name!r} empty; "
                "give a 'split' column or more groups"
            )
    return dataclasses.replace(data, splits=splits)


def check_splits(data: Dataset) -> None:
    """Refuse splits on which a comparison would be dishonest or undefined.

    Raises InputError for an empty split, a group or an identical sequence on two sides, and a target that in some split
    has one value only (a class or term without positives or negatives, a constant number).
    """
    if data.splits is None:
        raise ValueError("splits: not assigned yet; call assign_splits first")
    for split in SPLITS:
        if not len(data.rows(split)):
            raise InputError(f"{data.name}: column 'split' has no row {split!r}")
    _refuse_overlap(data, "sequence", data.sequences)
    _refuse_overlap(data, "group", data.groups)
    for split in SPLITS:
        targets = data.targets[data.rows(split)]
        constant = np.flatnonzero((targets == targets[:1]).all(axis=0))
        if len(constant):
            j = constant[0]
            raise InputError(
                f"{data.name}: label {data.target_names[j]!r} has the single value {_show(targets[0, j])} in all "
                f"{len(targets)} rows of the split {split!r}; every label needs both outcomes in every split"
            )


def _show(value: np.generic) -> str:
    return {True: "present", False: "absent"}[bool(value)] if value.dtype == bool else repr(float(value))


def _refuse_overlap(data: Dataset, column: str, values: tuple[str, ...]) -> None:
    assert data.splits is not None
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        j = first.setdefault(value, i)
        if data.splits[i] != data.splits[j]:
            shown = value if len(value) <= 30 else value[:27] + "..."
            raise InputError(
                f"{data.name}: {column} {shown!r} stands in split '{data.splits[j]}' (row {j + 2}) and in split "
                f"'{data.splits[i]}' (row {i + 2}); a {column} may stand on one side only"
            )
