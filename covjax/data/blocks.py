"""Groups along a genome: what overlaps, or lies near, stands on one side of a split."""

from collections.abc import Sequence

from covjax.errors import InputError

Interval = tuple[str, int, int]  # chromosome, start, end; half-open from 0


def block_name(chromosome: str, position: int, size: int) -> str:
    """The block of `size` nucleotides that holds a position, as `chrom:start-end`; InputError for size < 1."""
    if size < 1:
        raise InputError(f"block: {size} must be >= 1")
    start = position // size * size
    return f"{chromosome}:{start}-{start + size}"


def overlap_blocks(intervals: Sequence[Interval], size: int) -> list[str]:
    """Group of every interval: the block in which its run of overlapping intervals begins.

    Intervals of one group may reach over the block's end, but none overlaps one of another group: no nucleotide is in
    two groups.
    """
    groups = [""] * len(intervals)
    chromosome, reach, group = "", 0, ""
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i]):
        name, start, end = intervals[i]
        if name != chromosome or start >= reach:
            chromosome, reach, group = name, end, block_name(name, start, size)
        reach = max(reach, end)
        groups[i] = group
    return groups
