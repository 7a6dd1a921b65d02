"""Whole groups dealt into splits so that every split gets its share of rows and of every label."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

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
