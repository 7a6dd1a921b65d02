"""Splits into training, validation and test, given or drawn, by group and balanced; alignment by id."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covjax.data.near_copies import near_copies
from covjax.data.pairs import group_pairs, pair_names
from covjax.data.table import Dataset
from covjax.errors import InputError, shown

SPLITS = ("train", "validation", "test")
FEWEST_POSITIVES = 5  # of a label of many in every split, where nobody says another number
NAMED = 3  # labels that a message names of many


def assign_splits(data: Dataset, shares: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0) -> Dataset:
    """Return the dataset with every group in train, validation or test; keep splits that the file gave.

    Without a group column near copies are the groups (`group_near_copies`), so identical sequences always share one;
    groups of the file that have an identical sequence in common go to the same side.
    Groups stay whole, the shares of rows come close to `shares`, and every split gets its part of every class, label
    or, of numbers, quantile (`stratify.deal_groups`). `seed` draws which group goes where.

    Raises InputError where a split would be empty.
    """
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"shares: {shares} must be three positive numbers that sum to 1")
    data = group_near_copies(data)
    if data.splits is not None:
        return data
    groups = _numbered(data.groups)
    if data.has_group_column and data.sequences:
        # Of sequences, or pairs, that stand in several of the file's groups, these go to one side.
        same = pair_names(data.sequences, data.partners) if data.partners else data.sequences
        groups = _joined(groups, _numbered(same))
    count = int(groups.max()) + 1
    if count < len(SPLITS):
        raise InputError(
            f"{data.name}: {len(data)} rows in {count} groups leave the split {SPLITS[count]!r} empty; "
            "give a 'split' column or more groups"
        )
    part = deal_groups(groups, strata(data.targets, count), shares, seed)
    return dataclasses.replace(data, splits=np.array(SPLITS)[part])


def assign_folds(
    data: Dataset, folds: int, repeats: int = 1, shares: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0
) -> list[Dataset]:
    """The dataset split in `folds` × `repeats` ways: in each repeat every group is in the test set of one fold.

    Groups are those of `assign_splits`, and balanced as there; what is not in the test set is parted into training and
    validation as `shares` says of these two. Every repeat deals anew.

    Raises InputError for splits that the file gave, fewer than two folds, no repeat, and fewer groups than folds, or
    than three.
    """
    if data.splits is not None:
        raise InputError(
            f"folds: {data.name} has a column 'split', which says what the test set is; leave one of them out"
        )
    if folds < 2 or repeats < 1:
        raise InputError(f"folds: {folds} x {repeats} is not allowed; two folds and one repeat are the least")
    data = group_near_copies(data)
    groups = _numbered(data.groups)
    if data.has_group_column and data.sequences:
        same = pair_names(data.sequences, data.partners) if data.partners else data.sequences
        groups = _joined(groups, _numbered(same))
    count = int(groups.max()) + 1
    if count < max(folds, len(SPLITS)):
        raise InputError(f"folds: {folds} are more than the {count} groups of {data.name} can fill; give fewer folds")
    train, validation, _ = shares
    parts = [train / (train + validation), validation / (train + validation)]
    out = []
    for repeat in range(repeats):
        test = deal_groups(groups, strata(data.targets, count), [1 / folds] * folds, seed + repeat)
        for fold in range(folds):
            splits = np.full(len(data), "test", dtype=np.array(SPLITS).dtype)
            rest = np.flatnonzero(test != fold)
            own = np.unique(groups[rest], return_inverse=True)[1]
            if own.max() < 1:
                raise InputError(f"folds: {folds} leave one group of {data.name} to train and validate on; give more")
            members = strata(data.targets[rest], int(own.max()) + 1)
            splits[rest] = np.array(SPLITS[:2])[deal_groups(own, members, parts, seed + repeat)]
            out.append(dataclasses.replace(data, splits=splits))
    return out


def group_near_copies(data: Dataset) -> Dataset:
    """The dataset with near copies (see `near_copies`) as groups, if the file has no group column.

    Where one group would hold more than half of the rows (a mutant library), only identical sequences share a group,
    and the dataset is marked `one_family`. Where the file's own splits part near copies, the rows of each side are a
    group, and a note says how many.
    """
    if data.has_group_column or data.grouping or not data.sequences:
        return data
    if data.partners:
        made = group_pairs(data.sequences, data.partners, "text" if data.is_text else "")
        groups = tuple(map(str, made.groups.tolist()))
        warnings = made.warnings if data.splits is None or made.one_family else ()
        warnings = (*data.warnings, *warnings)
        data = dataclasses.replace(data, grouping=made.text, one_family=made.one_family, warnings=warnings)
        return _split_groups(data, groups, "pairs with sequences, or near copies, in common")
    # The marks of text decide over the whole table, as they do for the letters' case.
    copies = near_copies(data.sequences, "text" if data.is_text else "")
    count, largest = len(np.unique(copies)), int(np.bincount(copies).max())
    if 2 * largest > len(data):
        note = (
            f"within one family: {largest:,} of {len(data):,} sequences are near copies of each other (over 90 % "
            "similar), so only identical ones share a group, and the result holds for relatives of the training "
            "sequences alone; give --group-column (mutated position, clone) to hold back what is new"
        )
        groups = tuple(map(str, _numbered(data.sequences).tolist()))
        grouping = "no column 'group': only identical sequences share a group (within one family)"
        warnings = (*data.warnings, note)
        return dataclasses.replace(data, groups=groups, grouping=grouping, warnings=warnings, one_family=True)
    grouping = (
        f"no column 'group': near copies (over 90 % similar) are grouped: {count:,} groups of {len(data):,} sequences, "
        f"the largest of {largest:,}"
    )
    data = dataclasses.replace(data, grouping=grouping)
    return _split_groups(data, tuple(map(str, copies.tolist())), "near copies (over 90 % similar)")


def _split_groups(data: Dataset, groups: tuple[str, ...], what: str) -> Dataset:
    """The dataset under these groups, whose sides are groups of their own where the file's own split parts them."""
    warnings = data.warnings
    if data.splits is not None:
        sides: dict[str, set[str]] = {group: set() for group in groups}
        for group, split in zip(groups, data.splits.tolist()):
            sides[group].add(split)
        rows = [i for i, group in enumerate(groups) if len(sides[group]) > 1]
        if rows:
            other = next(i for i in rows if groups[i] == groups[rows[0]] and data.splits[i] != data.splits[rows[0]])
            warnings += (
                f"{what} are on both sides of the file's own split: {len(rows):,} of "
                f"{len(data):,} rows, for example {data.place(rows[0])} ({data.splits[rows[0]]}) and "
                f"{data.place(other)} ({data.splits[other]}); the test is easier than new sequences are; leave the "
                "column 'split' away to have them grouped",
            )
            groups = tuple(f"{group} {split}" for group, split in zip(groups, data.splits.tolist()))
    return dataclasses.replace(data, groups=groups, warnings=warnings)


def drop_rare(data: Dataset, minimum: int | None = None) -> Dataset:
    """Leave out labels and classes that are too rare to learn or test, with a warning.

    Multilabel: labels with fewer than `minimum` positives (default 5), or without a negative, in some split.
    Multiclass: the rows of classes with fewer than `minimum` rows (default 0, which leaves all) in some split.

    Raises InputError where nothing to predict is left, and for a `minimum` with numbers as targets.
    """
    if data.splits is None:
        raise ValueError("splits: not assigned yet; call assign_splits first")
    if data.task == "regression":
        if minimum:
            raise InputError(f"min_positives: {minimum} is for labels; the targets of {data.name} are numbers")
        return data
    several = data.task == "multilabel"
    minimum = (FEWEST_POSITIVES if several else 0) if minimum is None else minimum
    if minimum == 0:
        return data
    parts = [data.targets[data.rows(split)] for split in SPLITS]
    positives = np.array([part.sum(0) for part in parts])
    rare = np.asarray((positives < minimum).any(0))
    if several:
        rare |= np.any([part.all(0) for part in parts], axis=0)
    if not rare.any():
        return data
    what = "labels" if several else "classes"
    if (~rare).sum() < (1 if several else 2):
        best = int(positives.min(0).argmax())
        raise InputError(
            f"{data.name}: {(~rare).sum()} of {len(rare)} {what} have at least {minimum} rows with and one without in "
            f"each of train, validation and test ({shown(data.target_names[best], 40)} has "
            f"{positives[:, best].tolist()}); give more rows, or a smaller --min-positives"
        )
    names = [data.target_names[int(j)] for j in np.flatnonzero(rare)]
    note = f"{len(names):,} of {len(rare):,} {what} have fewer than {minimum} rows in some split and are left out"
    rows = np.arange(len(data)) if several else np.flatnonzero(~data.targets[:, rare].any(1))
    if not several:
        note += f", with {len(data) - len(rows):,} rows"
    note += f" (--min-positives {minimum}): {_some(names)}"
    data = dataclasses.replace(
        take_rows(data, rows),
        targets=data.targets[rows][:, ~rare],
        target_names=tuple(name for name, gone in zip(data.target_names, rare) if not gone),
        warnings=(*data.warnings, note),
    )
    return data


def check_splits(data: Dataset) -> None:
    """Refuse splits on which a comparison would be misleading or undefined.

    Raises InputError for an empty split, a group or an identical sequence on two sides, and targets that in some split
    have one value only (a class or term without positives or negatives, a constant number), all of them at once.
    """
    if data.splits is None:
        raise ValueError("splits: not assigned yet; call assign_splits first")
    for split in SPLITS:
        if not len(data.rows(split)):
            raise InputError(f"{data.name}: column 'split' has no row {split!r}")
    if data.partners:
        _refuse_overlap(data, "pair", pair_names(data.sequences, data.partners))
    else:
        _refuse_overlap(data, "sequence", data.sequences)
    _refuse_overlap(data, "group", data.groups)
    constant: dict[int, tuple[np.generic, str]] = {}
    for split in SPLITS:
        targets = data.targets[data.rows(split)]
        for j in np.flatnonzero((targets == targets[:1]).all(axis=0)).tolist():
            constant.setdefault(j, (targets[0, j], f"in all {len(targets)} rows of the split {split!r}"))
    if not constant:
        return
    remedy = {
        "multilabel": "--min-positives 1 leaves such labels out",
        "multiclass": "--min-positives 1 leaves the rows of such classes out, or merge them into others",
        "regression": "leave such targets out, or give another 'split'",
    }[data.task]
    rule = {"regression": "every target needs different values in every split"}.get(
        data.task, "every label needs both outcomes in every split"
    )
    (first, (value, where)), *others = constant.items()
    more = ""
    if others:
        names = _some([data.target_names[j] for j, _ in others], 5)
        more = f", and so have {len(others):,} more of {len(data.target_names):,} in some split ({names})"
    what = f"{'target' if data.task == 'regression' else 'label'} {shown(data.target_names[first], 40)}"
    raise InputError(f"{data.name}: {what} has the single value {_show(value)} {where}{more}; {rule}; {remedy}")


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Equal names as equal numbers from 0, in order of appearance; an array of long strings would be n × longest."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], int)


def _joined(groups: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Groups, numbered from 0, of which those with a row of the same number in `copies` are one, along chains too."""
    count = int(groups.max()) + 1
    size = count + int(copies.max()) + 1
    links = coo_array((np.ones(len(groups)), (groups, count + copies)), (size, size))
    return connected_components(links, directed=False)[1][groups]


def take_rows(data: Dataset, rows: np.ndarray) -> Dataset:
    """Some rows of the dataset, in the order given."""
    columns: dict[str, Any] = {"targets": data.targets[rows]}
    for name in ("ids", "sequences", "partners", "groups", "lines"):
        if column := getattr(data, name, ()):
            columns[name] = tuple(column[i] for i in rows)
    if data.splits is not None:
        columns["splits"] = data.splits[rows]
    if data.covariates is not None:
        columns["covariates"] = data.covariates[rows]
    return dataclasses.replace(data, **columns)


def _some(names: Sequence[str], most: int = NAMED) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shown(name, 40) for name in names[:most]) + more


def _show(value: np.generic) -> str:
    return {True: "present", False: "absent"}[bool(value)] if value.dtype == bool else repr(float(value))


def _refuse_overlap(data: Dataset, column: str, values: tuple[str, ...]) -> None:
    assert data.splits is not None
    first: dict[str, int] = {}
    both: dict[str, int] = {}
    for i, value in enumerate(values):
        if data.splits[i] != data.splits[first.setdefault(value, i)]:
            both.setdefault(value, i)
    if both:
        value, i = next(iter(both.items()))
        j = first[value]
        more = f" (as {len(both) - 1:,} more {column}s do)" if len(both) > 1 else ""
        raise InputError(
            f"{data.name}: {column} {shown(value, 40)} is in split '{data.splits[j]}' ({data.place(j)}) and in "
            f"split '{data.splits[i]}' ({data.place(i)}){more}; a {column} may be on one side only; without the "
            "column 'split' it does"
        )


QUANTILES = 10
LARGE = 0.02  # of all rows: a group of that size is placed by rows alone, before the others


def strata(targets: np.ndarray, groups: int) -> Bool[np.ndarray, "n strata"]:
    """What is to be spread evenly: the labels, or of numbers the quantile of their mean rank over the targets."""
    if targets.dtype == bool:
        return targets
    ranks = np.argsort(np.argsort(targets, axis=0, kind="stable"), axis=0, kind="stable").mean(1)
    place = np.argsort(np.argsort(ranks, kind="stable"), kind="stable")
    bins = max(1, min(QUANTILES, groups // 6))
    return np.eye(bins, dtype=bool)[place * bins // max(len(place), 1)]


def deal_groups(
    groups: Int[np.ndarray, "n"], members: Bool[np.ndarray, "n strata"], shares: Sequence[float], seed: int
) -> Int[np.ndarray, "n"]:
    """Split of every row, 0 to len(shares) − 1; `groups` are numbers from 0, each of which has rows.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) of whole groups: those with the rarest labels come
    first, each goes where most of its rarest label is still to come, among equals where most rows are. A label that
    stands in as many groups as there are splits, or more, reaches all; one in fewer groups does not count. Groups of
    the same kind come in an order drawn by `seed`.
    """
    count, parts = int(groups.max()) + 1, len(shares)
    sizes = np.bincount(groups, minlength=count)
    rows, labels = np.nonzero(members)
    keys, amounts = np.unique(groups[rows] * members.shape[1] + labels, return_counts=True)
    owners, columns = np.divmod(keys, max(members.shape[1], 1))
    spread = np.bincount(columns, minlength=members.shape[1])  # groups that have the label
    usable = spread[columns] >= parts
    owners, columns, amounts = owners[usable], columns[usable], amounts[usable]
    begins = np.searchsorted(owners, np.arange(count + 1))
    rarest = np.full(count, np.iinfo(int).max)
    np.minimum.at(rarest, owners, spread[columns])
    large = sizes >= max(2, LARGE * len(groups))
    shuffled = np.random.default_rng(seed).permutation(count)
    order = np.lexsort((-sizes[shuffled], rarest[shuffled], ~large[shuffled]))

    # Lists from here on: an array operation on three numbers costs more than the arithmetic.
    need = np.outer(np.bincount(columns, amounts, members.shape[1]), shares).tolist()  # by label, by split
    room = [share * len(groups) for share in shares]
    absent = [set(range(parts)) for _ in need]
    empty = set(range(parts))
    frequency, left = spread.tolist(), spread.tolist()
    begins, columns, amounts = begins.tolist(), columns.tolist(), amounts.tolist()
    counts = sizes.tolist()
    split = np.empty(count, int)
    for turn, group in enumerate(shuffled[order].tolist()):
        own = range(begins[group], begins[group + 1])
        allowed = empty if count - turn <= len(empty) else set(range(parts))
        wanted = room
        if own:
            label = columns[min(own, key=lambda i: frequency[columns[i]])]
            if left[label] <= len(absent[label]) and absent[label] & allowed:
                allowed = absent[label] & allowed
            if not large[group]:
                wanted = need[label]
        part = max(sorted(allowed), key=lambda i: (round(wanted[i], 9), room[i]))
        split[group] = part
        for i in own:
            need[columns[i]][part] -= amounts[i]
            left[columns[i]] -= 1
            absent[columns[i]].discard(part)
        room[part] -= counts[group]
        empty.discard(part)
    return split[groups]


def align(feature_ids: Sequence[str], label_ids: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Row numbers that put features into the order of the labels: `features[rows]`.

    Raises InputError where an id is missing on either side or occurs twice on one: how many, and the first three.
    """
    problems = []
    for name, ids in (("features", feature_ids), ("labels", label_ids)):
        if twice := _repeated(ids):
            problems.append(f"{len(twice)} ids occur more than once in the {name} ({first_names(twice)})")
    known_features, known_labels = set(feature_ids), set(label_ids)
    for lacking, ids, known in (("features", label_ids, known_features), ("labels", feature_ids, known_labels)):
        other = "labels" if lacking == "features" else "features"
        if missing := [name for name in dict.fromkeys(ids) if name not in known]:
            problems.append(
                f"{len(missing)} of {len(ids)} ids of the {other} have no {lacking} ({first_names(missing)})"
            )
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


def first_names(names: Sequence[str]) -> str:
    """Up to three of the names, for a message."""
    return "first " + ", ".join(shown(name, 60) for name in names[:3])
