"""Tables of a comparison by name: those that fit stay in memory, the others are read again when they are asked for.

Also what else of a comparison an earlier run has completed, and its rest.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from covjax.embedding.tables import Directions, Landmarks, Table
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.disk import Damaged
from covjax.jobs.distributed import agree, is_first
from covjax.jobs.memory import trim

Item = TypeVar("Item")

_REMEDIES = {
    "landmarks": "add --landmarks {}",
    "cg": "add --solver cg --landmarks {}",
    "sketch": "add --solver sketch, under the same limit",
}


def _shown(route: tuple[int, str]) -> str:
    count, solver = route
    return f"{count:,}{'' if solver == 'landmarks' else f' ({solver})'}" if count else "none"


class TableFiles(Mapping[str, Table]):
    """The tables of `names`, in this order, as checkpoints in a folder; at most `room` bytes stay in memory.

    `expected` is the manifest that a table's checkpoint must have; `landmarks` are this run's, where it has any,
    `solver` and `count` those of its plan (`covjax.embedding.landmarks`).
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        expected: Callable[[str], dict[str, Any]],
        landmarks: Landmarks | None,
        room: float,
        solver: str = "landmarks",
        count: int = 0,
    ):
        self._folder, self._names, self._expected = folder, list(names), expected
        self._route = count, solver if count else ""
        self._landmarks, self._room, self._kept = landmarks, room, dict[str, Table]()

    def put(self, name: str, table: Table) -> None:
        """Write a table."""
        state = {"values": table.values}
        more: dict[str, Any] = {"num_features": table.num_features, "is_kernel": table.is_kernel}
        if table.shares:
            more["shares"] = list(table.shares)
        if table.probe:
            more["probe"] = table.probe
        if table.landmarks is not None:
            state["sample"] = table.landmarks.kernel
            more["landmarks"] = self._route[0]
            if table.solver != "landmarks":
                more["solver"] = table.solver
        if table.directions is not None:
            state["directions"] = table.directions.vectors
            more |= {"square": table.directions.square, "steps": table.directions.steps}
            more["beside"] = list(table.directions.beside)
        checkpoint.save(self._folder / name, state, self._expected(name) | more)
        trim()  # Orbax leaves as much as it wrote: 0.2 GiB of 0.23
        self._keep(name, table)

    def find(self, name: str) -> Table | None:
        """A table that is there; None where there is none.

        Raises InputError for one made under other settings or with other landmarks, and as `checkpoint.load_complete`.
        """
        if name in self._kept:
            return self._kept[name]
        path = self._folder / name
        manifest = checkpoint.read_manifest(path)
        if manifest is None:
            return None
        count = manifest.get("landmarks", 0)
        route = count, manifest.get("solver", "landmarks") if count else ""
        if count and route != self._route:
            raise InputError(
                f"landmarks: {path} was made with {_shown(route)}, this run takes {_shown(self._route)}, by its limit "
                f"of memory or by --landmarks and --solver; {_REMEDIES[route[1]].format(count)}, or use --output OTHER"
            )
        like = {"values": 0} | ({"sample": 0} if count else {}) | ({"directions": 0} if route[1] == "cg" else {})
        state = checkpoint.load(path, like, self._expected(name))
        landmarks, directions = None, None
        if count:
            assert self._landmarks is not None
            own, wanted = state["sample"].shape[1], len(self._landmarks.fitted)
            if own != wanted:
                raise InputError(
                    f"landmarks: {path} has a sample of {own:,} training sequences, and this run's limit of memory "
                    f"makes it {wanted:,}; give the --max-memory-gib of the run before, or --output OTHER"
                )
            landmarks = dataclasses.replace(self._landmarks, kernel=state["sample"])
        if "directions" in state:
            numbers = manifest["square"], manifest["steps"], tuple(manifest.get("beside", ()))
            directions = Directions(state["directions"], *numbers)
        shares = tuple(manifest.get("shares", ()))
        probe, size = manifest.get("probe", ""), manifest["num_features"]
        table = Table(state["values"], size, manifest["is_kernel"], landmarks, shares, probe, directions)
        self._keep(name, table)
        return table

    def _keep(self, name: str, table: Table) -> None:
        if table.values.nbytes + sum(each.values.nbytes for each in self._kept.values()) <= self._room:
            self._kept[name] = table

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Table:
        if name not in self._names:
            raise KeyError(name)
        if (table := self.find(name)) is None:
            raise InputError(f"output: process {jax.process_index()} does not see {self._folder}")
        return table

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_whole(load: Callable[[str], Item | None], label: str) -> Item | None:
    """What `load` gives; of what is damaged nothing, and it is named: it is made again."""
    try:
        return load(label)
    except Damaged as error:
        print(f"note: {error}; made again", file=sys.stderr)
        return None


def find_complete(labels: Sequence[str], load: Callable[[str], Item | None]) -> tuple[dict[str, Item], list[str]]:
    """What `load` gives, by label, in process 0 alone, and in all the labels that it gives nothing for there.

    What is damaged is named and counts as not there: it is made again.
    """
    found = {}
    for label in labels if is_first() else ():
        if (item := load_whole(load, label)) is not None:
            found[label] = item
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
