"""Several short sequences behind one another in one row, so that little of a batch is padding."""

import bisect
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from covjax.errors import InputError


def plan_rows(lengths: Int[np.ndarray, "n"], edges: Sequence[int], max_segments: int) -> dict[int, list[list[int]]]:
    """{row length: rows}, each row the numbers of its sequences: best fit, longest sequence first (Johnson 1974).

    A row is as long as the smallest of `edges`, ascending, that holds its longest sequence; shorter sequences fill it
    up, at most `max_segments` in all. Rows of more sequences come first.
    Raises InputError for max_segments < 1 and a sequence longer than the last of `edges`.
    """
    if max_segments < 1:
        raise InputError(f"max_segments: {max_segments} must be >= 1")
    if lengths.max() > edges[-1]:
        raise InputError(
            f"edges: the last is {edges[-1]}, shorter than the longest sequence with {lengths.max()} tokens"
        )
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending, of rows that take more sequences
    row_edges = []
    for number in np.argsort(-lengths, kind="stable"):
        length = int(lengths[number])
        place = bisect.bisect_left(room, (length, -1))
        if place < len(room):
            free, row = room.pop(place)
        else:
            free, row = edges[bisect.bisect_left(edges, length)], len(rows)
            row_edges.append(free)
            rows.append([])
        rows[row].append(int(number))
        if len(rows[row]) < max_segments:
            bisect.insort(room, (free - length, row))
    return {
        edge: sorted((row for row, e in zip(rows, row_edges) if e == edge), key=len, reverse=True)
        for edge in sorted(set(row_edges))
    }
