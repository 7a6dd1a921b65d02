"""What a comparison finds complete in its folder, decided once for all processes of a job."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from covjax.distributed import agree, is_first
from covjax.errors import InputError
from covjax.jobs.seal import Damaged

Item = TypeVar("Item")


def find_complete(labels: Sequence[str], load: Callable[[str], Item | None]) -> tuple[dict[str, Item], list[str]]:
    """What `load` gives, by label, in process 0 alone, and in all the labels that it gives nothing for there.

    What is damaged is named and counts as not there: it is made again.
    """
    found = {}
    for label in labels if is_first() else ():
        try:
            if (item := load(label)) is not None:
                found[label] = item
        except Damaged as error:
            print(f"note: {error}; made again", file=sys.stderr)
    complete = agree(np.array([label in found for label in labels]))
    return found, [label for label, there in zip(labels, complete) if not there]


def load_rest(
    labels: Iterable[str], have: dict[str, Item], load: Callable[[str], Item | None], folder: Path
) -> dict[str, Item]:
    """All labels' items in their order, loaded where another process made them; InputError where they are not seen."""
    out = {}
    for label in labels:
        item = have[label] if label in have else load(label)
        if item is None:
            raise InputError(f"output: process {jax.process_index()} does not see {folder}")
        out[label] = item
    return out
