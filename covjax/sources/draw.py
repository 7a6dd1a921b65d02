"""A seeded draw of whole groups into train, validation and test, of at most the sizes asked for."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from covjax.data.splits import SPLITS
from covjax.errors import InputError
from covjax.sources.rows import Row

Sizes = tuple[int, int, int]  # rows of train, validation, test


def draw(rows: Sequence[Row], sizes: Sizes, seed: int = 0, largest: float | None = 0.1) -> list[Row]:
    """Rows with their splits, in the order they came in; what no split has room for is left out.

    Groups are shuffled (`seed`) and dealt one by one: test first, then validation, the rest to train, each until it is
    full; of the group that overfills a split the surplus rows are left out, so no group ever stands on two sides. No
    group gives more than the share `largest` of a split's rows (None: no such bound): a larger one is passed over for
    test and validation and gives a seeded sample of its rows to train. A source with fewer rows than asked for is
    divided in the same proportions. Where some rows are held out by the publisher (split "test"), test is drawn from
    these alone, and the other rows of their groups are left out.

    Raises InputError for sizes < 1 and where a split stays empty.
    """
    if min(sizes) < 1:
        raise InputError(f"sizes: {sizes} must be three numbers >= 1")
    rng = np.random.default_rng(seed)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[row.group].append(i)
    held_out = {row.group for row in rows if row.split}
    for name in held_out:
        members[name] = [i for i in members[name] if rows[i].split]
    names = sorted(members)
    shuffled = {names[j]: rng.permutation(members[names[j]]).tolist() for j in rng.permutation(len(names))}
    inside = [name for name in shuffled if name not in held_out]
    room = dict(zip(SPLITS, sizes))
    if held_out:
        pools = {"test": [name for name in shuffled if name in held_out], "validation": inside, "train": inside}
        room = _scaled(room, ("train", "validation"), [len(shuffled[name]) for name in inside], largest)
    else:
        pools = {"test": inside, "validation": inside, "train": inside}
        room = _scaled(room, SPLITS, [len(shuffled[name]) for name in inside], largest)
    split: dict[int, str] = {}
    taken: set[str] = set()
    for side in ("test", "validation", "train"):
        most, free = _most(room[side], largest), room[side]
        for name in pools[side]:
            if name in taken or (side != "train" and largest is not None and len(shuffled[name]) > most):
                continue
            if not free:
                break
            chosen = shuffled[name][: min(most, free)]
            split |= dict.fromkeys(chosen, side)
            free -= len(chosen)
            taken.add(name)
        if free == room[side]:
            raise InputError(f"{len(rows)} rows in {len(names)} groups leave the split {side!r} empty")
    return [dataclasses.replace(rows[i], split=split[i]) for i in sorted(split)]


def _most(room: int, largest: float | None) -> int:
    return room if largest is None else max(1, round(largest * room))


def _scaled(
    room: dict[str, int], sides: tuple[str, ...], group_sizes: list[int], largest: float | None
) -> dict[str, int]:
    """Rows a split may have: those asked for, or in the same proportions as many as there are."""
    available = sum(min(size, _most(room["train"], largest)) for size in group_sizes)
    factor = min(1.0, available / sum(room[side] for side in sides))
    return room | {side: max(1, round(factor * room[side])) for side in sides}
